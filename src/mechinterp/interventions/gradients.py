"""Gradients of a metric at hook points, example by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mechinterp.core import HookedModel, is_reader_input
from mechinterp.interventions.hooks import Edit, as_hooked, check_fired, frozen, hook_name, in_turn, refusals
from mechinterp.models import Transformer


def gradients(
    model: HookedModel | nn.Module,
    inputs: Tensor,
    hooks: Sequence[str],
    score: Callable[[Tensor], Tensor],
    edits: Mapping[str, Edit] | None = None,
    end: str | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activations, and the gradient of a metric with respect to them.

    Examples do not see each other, so the gradient of the sum over examples is each example's own gradient.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        inputs: As the model takes them.
        hooks: Where to differentiate.
        score: From the model's output to one number per example.
        edits: Hook name -> replacement, applied before differentiating; the graph starts there.
        end: One of the hooks: `score` takes the activation there, and what comes after it does not run.

    Returns:
        Activations and gradients by hook name; the weights' own `.grad` is not touched.

    Raises:
        SiteError: If the model has no such hook.
        UnsupportedError: If it has one that nothing passes through.
    """
    model = as_hooked(model)
    edits = {hook_name(model, name): edit for name, edit in (edits or {}).items()}
    names = [hook_name(model, name) for name in hooks]
    values: dict[str, Tensor] = {}

    # Under the requested name: a bridge's hook points answer to several.
    def watcher(name: str) -> Callable[[Tensor, object], Tensor]:
        def watch(value: Tensor, hook: object) -> Tensor:
            if name in edits:
                value = edits[name](value).detach()
            # With frozen weights nothing before this point needs a gradient: the graph starts here.
            value = value if value.requires_grad else value.detach().requires_grad_()
            # A reader's input may be the stream itself; only what this reader takes from it counts.
            values[name] = value.view_as(value) if is_reader_input(name) else value
            return values[name]

        return watch

    # A bridge's hook may stand beside the stream and not in it: there the stream itself must keep its graph.
    weights = frozen(model) if isinstance(model, Transformer) else nullcontext()
    with in_turn(model), weights, torch.enable_grad(), refusals():
        watchers = [(name, watcher(name)) for name in dict.fromkeys([*edits, *names])]
        if end is None:
            output = model.run_with_hooks(inputs, fwd_hooks=watchers)
        else:
            model.run_with_hooks(inputs, return_type=None, fwd_hooks=watchers)
            output = values[end]
        check_fired(model, names, values)
        sums = torch.autograd.grad(score(output).sum(), [values[name] for name in names], allow_unused=True)
    grads = {name: torch.zeros_like(values[name]) if g is None else g for name, g in zip(names, sums, strict=True)}
    return {name: values[name].detach() for name in names}, grads
