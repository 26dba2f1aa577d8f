"""Run a model, record activations, edit activations: for any model that has TransformerLens's hook points."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from mechinterp.core import HookedModel, Site, SiteError, UnsupportedError, suggest
from mechinterp.models import Transformer

Edit = Callable[[Tensor], Tensor]


def record(
    model: HookedModel | nn.Module, inputs: Tensor, hooks: Sequence[str | Site], edits: Mapping[str, Edit] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run once and keep some activations.

    Args:
        model: A `Transformer`, or any model with `hook_dict` and `run_with_hooks`.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
        hooks: Hook names, or sites.
        edits: As for `run_edited`; an edited activation is recorded as edited.

    Returns:
        The output, and the activations by hook name, as the model computes them (heads share one tensor).

    Raises:
        SiteError: If the model has no such hook.
        UnsupportedError: If it has one that nothing passes through (a bridge's per-head inputs, for one).
    """
    model, edits, values = as_hooked(model), edits or {}, {}

    # Under the requested name: a bridge's hook points answer to several.
    def watch(name: str) -> Edit:
        def keep(value: Tensor) -> Tensor:
            values[name] = edits[name](value) if name in edits else value
            return values[name]

        return keep

    names = [hook_name(model, hook) for hook in hooks]
    output = run_edited(model, inputs, {**edits, **{name: watch(name) for name in names}})
    return output, values


def run_edited(model: HookedModel | nn.Module, inputs: Tensor, edits: Mapping[str, Edit]) -> Tensor:
    """Run once with some activations replaced.

    Args:
        model: As for `record`.
        inputs: As for `record`.
        edits: Hook name -> function from the activation to its replacement, of the same shape.

    Raises:
        SiteError: If the model has no such hook.
        UnsupportedError: If it has one that nothing passes through: the edit would be lost without a word.
    """
    model, fired = as_hooked(model), set()

    def hook_of(name: str, edit: Edit):
        def hooked(value: Tensor, hook: object) -> Tensor:
            fired.add(name)
            return edit(value)

        return hook_name(model, name), hooked

    hooks = [hook_of(name, edit) for name, edit in edits.items()]
    with quiet(model), refusals():
        output = model.run_with_hooks(inputs, fwd_hooks=hooks)
    check_fired(model, edits, fired)
    return output


def as_hooked(model: object) -> HookedModel:
    """The model, if it has hook points.

    Raises:
        UnsupportedError: If it has none.
    """
    # The class is looked at first, which is fast; a protocol's members take much longer.
    if isinstance(model, (Transformer, HookedModel)):
        return model
    raise UnsupportedError(f"{type(model).__name__} has no hook points: use a Transformer or a TransformerBridge")


def hook_name(model: HookedModel, hook: str | Site) -> str:
    """The name of a hook point, checked.

    Raises:
        SiteError: If the model has no such hook, naming the nearest.
    """
    name, known = hook.hook if isinstance(hook, Site) else hook, model.hook_dict
    if name not in known:
        with suppress(SiteError):
            name = Site.parse(name).hook
    if name not in known:
        raise SiteError(f"no hook '{name}' in this model.{suggest(name, known)}")
    return name


def check_fired(model: HookedModel, requested: Iterable[str], fired: Container[str]) -> None:
    """Refuse a run in which some hooks never fired.

    Raises:
        UnsupportedError: If nothing passed through a requested hook.
    """
    silent = [name for name in requested if name not in fired]
    if silent:
        raise UnsupportedError(f"this {type(model).__name__} has a hook '{silent[0]}', but nothing passes through it")


@contextmanager
def refusals() -> Iterator[None]:
    """A bridge's way to say that a hook point is switched off becomes ours.

    Raises:
        UnsupportedError: If it said so.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Cannot add hook"):
            raise
        raise UnsupportedError(str(error)) from error


def check_unhooked(model: HookedModel) -> None:
    """Refuse a model that still has hooks: they would change some runs of an analysis and not others.

    Raises:
        UnsupportedError: If any hook point is hooked.
    """
    left = [name for name, point in model.hook_dict.items() if point._forward_hooks or point._backward_hooks]
    if left:
        raise UnsupportedError(f"the model still has hooks on {', '.join(left[:3])}: call model.reset_hooks() first")


@contextmanager
def quiet(model: HookedModel | nn.Module) -> Iterator[None]:
    """No gradients, evaluation mode; on leaving, also by an error, mode and hooks are as they were."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
