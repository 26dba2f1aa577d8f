"""One hooked forward pass per patch: slow, obvious, and right for every model with TransformerLens's hook points.

It serves models that the engine cannot resume (a `TransformerBridge`), and the tests as the second road to a number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from mechinterp.core import HookedModel, Options, Pair, patching_result
from mechinterp.interventions import Scorer, ablated, record, run_edited, take
from mechinterp.patching.places import Places
from mechinterp.patching.select import Nodes, node_result


def plain_nodes(
    model: HookedModel,
    pair: Pair,
    nodes: Nodes,
    where: Places,
    options: Options,
) -> xr.Dataset:
    """Exact node effects, one forward pass per patch.

    Args:
        model: Any model with `hook_dict` and `run_with_hooks`.
        pair: On the model's device.
        nodes: What to patch.
        where: Places to patch.
        options: Metric, direction and ablation.

    Returns:
        As `patch_nodes`.

    Raises:
        SiteError: If the model lacks the hook point.
        UnsupportedError: If its activations have fewer heads than there are queries (grouped-query attention).
    """
    noise = options.direction == "noise"
    this, other = (pair.clean, pair.corrupted) if noise else (pair.corrupted, pair.clean)
    _, positions, _ = pair.clean.at_scored()
    names = nodes.hooks(model)
    _, theirs = record(model, other.inputs, names)
    outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (pair.clean, pair.corrupted)]
    with torch.no_grad():
        scorer = Scorer.of(pair, options, outputs[0])
        clean, corrupted = (scorer(output) for output in outputs)
        rows = []
        for name in names:
            value = nodes.seq_second(theirs[name])
            value = nodes.seq_second(ablated(value, options.ablation))
            for unit in nodes.units(value):
                for mask in where.masks:
                    edit = _edit(value, mask, unit, nodes.axis)
                    edit = _in_place(edit) if nodes.kind == "resid_mid" else edit
                    output = run_edited(model, this.inputs, {name: edit})
                    rows.append(scorer(take(output, positions)))
        effect = torch.stack(rows).unflatten(0, (len(names), -1, len(where.masks)))
    effect = clean - effect if noise else effect - corrupted
    result = node_result(effect, nodes, where)
    return patching_result(result, clean, corrupted, method="exact, one pass per patch")


def _edit(value: Tensor, mask: Bool[Tensor, "batch seq"], unit: int | None, axis: int) -> Callable[[Tensor], Tensor]:
    """Replace the masked positions of one head or neuron (or of the whole activation)."""

    def edit(old: Tensor) -> Tensor:
        # [batch, seq, ...] for all kinds but patterns, which are [batch, head, query, key].
        where = mask[:, None, :, None] if axis == 1 else mask.reshape(*mask.shape, *[1] * (old.ndim - 2))
        if unit is not None:
            shape = [-1 if i == axis else 1 for i in range(old.ndim)]
            where = where & (torch.arange(old.shape[axis], device=old.device) == unit).reshape(shape)
        return torch.where(where, value, old)

    return edit


def _in_place(edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Write the edit into the value itself.

    A bridge's `hook_resid_mid` is the input of the second norm: what a hook returns there reaches the MLP, and not the
    stream beside it. Both are one tensor, so writing into it reaches both (so does TransformerLens's `patching`).
    """
    return lambda old: old.copy_(edit(old))
