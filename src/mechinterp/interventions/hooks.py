"""Run a model, record activations, edit activations: for any model that has TransformerLens's hook points."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

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
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
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


def check_plain(model: HookedModel | nn.Module) -> None:
    """Refuse a model that somebody else has hooks on: they would change some runs of an analysis and not others.

    Raises:
        UnsupportedError: If a hook point is hooked, or any module of a `Transformer`, also by torch's own hooks.
    """
    if isinstance(model, Transformer):
        modules = dict(model.named_modules())
        left = [name or "the model itself" for name, module in modules.items() if _hooked(module)]
    else:  # A bridge works by hooks on the modules that it wraps.
        points = model.hook_dict.items() if isinstance(model, HookedModel) else ()
        left = [name for name, point in points if point._forward_hooks or point._backward_hooks]
    if left:
        raise UnsupportedError(
            f"the model still has hooks on {', '.join(left[:3])}: remove them first (model.reset_hooks() removes those "
            "of hook points)"
        )


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


@contextmanager
def in_turn(model: HookedModel | nn.Module) -> Iterator[None]:
    """Evaluation mode, and no other thread's analysis of this model; on leaving, also by an error, the mode is back.

    Hooks of two analyses on one model would change each other's runs, so a second thread waits for its turn.

    Raises:
        UnsupportedError: If the model has hooks already.
    """
    with _GUARD:
        lock, depth = _TURNS.setdefault(model, (threading.RLock(), threading.local()))
    with lock:
        within = getattr(depth, "count", 0)
        if not within:
            check_plain(model)
        depth.count = within + 1
        training = model.training
        if training:
            model.eval()
        try:
            yield
        finally:
            depth.count = within
            if training:
                model.train()


@contextmanager
def quiet(model: HookedModel | nn.Module) -> Iterator[None]:
    """As `in_turn`, and no gradients."""
    with in_turn(model), torch.no_grad():
        yield


@contextmanager
def frozen(model: HookedModel | nn.Module) -> Iterator[None]:
    """No weight asks for a gradient, so that a graph keeps only what gradients of activations need; then as before."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


_GUARD = threading.Lock()
_TURNS: WeakKeyDictionary[HookedModel | nn.Module, tuple[threading.RLock, threading.local]] = WeakKeyDictionary()
"""Model -> who may analyse it now, and how many of its analyses are inside each other."""
