"""Run a model, record activations, edit activations: for any model that has TransformerLens's hook points."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from mechinterp.core import Site, SiteError, UnsupportedError, suggest

Edit = Callable[[Tensor], Tensor]


def record(model: Any, inputs: Tensor, hooks: Sequence[str | Site]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run once and keep some activations.

    Args:
        model: A `Transformer`, or any model with `hook_dict` and `run_with_hooks`.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
        hooks: Hook names, or sites.

    Returns:
        The output, and the activations by hook name, as the model made them (heads share one tensor).

    Raises:
        SiteError: If the model has no such hook.
        UnsupportedError: If it has one that nothing passes through (a bridge's per-head inputs, for one).
    """
    kept: dict[str, Tensor] = {}

    # Under the name that was asked for: a bridge's hook points answer to several.
    def keep(name: str) -> Edit:
        def see(value: Tensor) -> Tensor:
            kept[name] = value
            return value

        return see

    names = [hook_name(model, hook) for hook in hooks]
    output = run_edited(model, inputs, {name: keep(name) for name in names})
    return output, kept


def run_edited(model: Any, inputs: Tensor, edits: Mapping[str, Edit]) -> Tensor:
    """Run once with some activations replaced.

    Args:
        model: As for `record`.
        inputs: As for `record`.
        edits: Hook name -> function from the activation to its replacement, of the same shape.

    Raises:
        SiteError: If the model has no such hook.
        UnsupportedError: If it has one that nothing passes through: the edit would be lost without a word.
    """
    fired: set[str] = set()

    def hook_of(name: str, edit: Edit):
        def hooked(value: Tensor, hook: Any) -> Tensor:
            fired.add(name)
            return edit(value)

        return hook_name(model, name), hooked

    made = [hook_of(name, edit) for name, edit in edits.items()]
    with quiet(model), refusals():
        output = model.run_with_hooks(inputs, fwd_hooks=made)
    check_fired(model, edits, fired)
    return output


def hook_name(model: Any, hook: str | Site) -> str:
    """The name of a hook point, checked.

    Raises:
        SiteError: If the model has no such hook, naming the nearest.
        UnsupportedError: If the model has no hook points at all.
    """
    name = hook.hook if isinstance(hook, Site) else hook
    known = getattr(model, "hook_dict", None)
    if known is None:
        raise UnsupportedError(f"{type(model).__name__} has no hook points: use a Transformer or a TransformerBridge")
    if name not in known:
        with suppress(SiteError):
            name = Site.parse(name).hook
    if name not in known:
        raise SiteError(f"no hook '{name}' in this model.{suggest(name, known)}")
    return name


def check_fired(model: Any, asked: Iterable[str], fired: Container[str]) -> None:
    """Refuse a result that some hooks had no part in: they would be lost without a word.

    Raises:
        UnsupportedError: If nothing passed through a hook that was asked for.
    """
    silent = [name for name in asked if name not in fired]
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


def check_unhooked(model: Any) -> None:
    """Refuse a model that somebody left hooks on: they would change some runs of an analysis and not others.

    Raises:
        UnsupportedError: If any hook point is hooked.
    """
    left = [name for name, point in model.hook_dict.items() if point._forward_hooks or point._backward_hooks]
    if left:
        raise UnsupportedError(f"the model still has hooks on {', '.join(left[:3])}: call model.reset_hooks() first")


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """No gradients, evaluation mode; on leaving, also by an error, mode and hooks are as they were."""
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
