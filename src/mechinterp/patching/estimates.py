"""Gradient estimates of node and edge effects: for models where exact effects cost too much, and to be examined.

All are first-order: `(clean value - other value) . gradient`, signed as the exact effects are.
"""

from __future__ import annotations

import torch
import xarray as xr
from einops import rearrange
from torch import nn

from mechinterp.core import (
    Batch,
    HookedModel,
    Options,
    Pair,
    Site,
    labelled,
    patching_result,
    takes,
)
from mechinterp.interventions import (
    Scorer,
    ablated,
    as_hooked,
    gradients,
    on_model,
    record,
    take,
)
from mechinterp.patching.places import places
from mechinterp.patching.select import node_result, select_nodes


@takes("metric", "direction", "ablation")
def estimate_nodes(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    site: str | Site = "z",
    at: str = "pos",
    options: Options,
) -> xr.Dataset:
    """Attribution patching: estimated effect of every node, in the shape of `patch_nodes`.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        pair: Clean and corrupted inputs.
        site: A kind or an address, as for `patch_nodes`.
        at: `pos`, `role` or `all`.
        options: See `Options`; the metric is differentiable. The gradient is taken at the clean run (`noise`) or at the
            corrupted one (`denoise`).

    Raises:
        SiteError: If the model has no such site.

    Source: Nanda 2023, attribution patching; TransformerLens 4.3 takes the gradient at the corrupted run, which is
    `direction="denoise"` here.
    """
    model = as_hooked(model)
    pair = on_model(pair, model)
    where, nodes = places(pair.clean, at), select_nodes(model, site)
    names = nodes.hooks(model)
    options, noise = options.for_model(model), options.direction == "noise"
    base, other = (pair.clean, pair.corrupted) if noise else (pair.corrupted, pair.clean)
    _, positions, _ = pair.clean.at_scored()
    _, theirs = record(model, other.inputs, names)
    outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (pair.clean, pair.corrupted)]
    with torch.no_grad():
        scorer = Scorer.of(pair, options, outputs[0])
        values = [scorer(output) for output in outputs]
    mine, grads = gradients(model, base.inputs, names, lambda output: scorer(take(output, positions)))
    rows = []
    for name in names:
        value, reference, grad = (nodes.seq_second(part[name]) for part in (mine, theirs, grads))
        step = value - ablated(reference, options.ablation)
        product = (step if noise else -step) * grad
        if nodes.unit == "head":
            product = product.sum(-1)[:, :, nodes.heads.start : nodes.heads.stop]
        elif nodes.unit is None:
            product = product.sum(-1, keepdim=True)
        rows.append(torch.einsum("bsu,pbs->upb", product, where.masks.to(product.dtype)))
    result = node_result(torch.stack(rows), nodes, where)
    attrs = {"site": str(site), "at": at, **options.attrs("metric", "direction", "ablation")}
    return patching_result(result, values[0], values[1], method="attribution patching", **attrs)


@takes(metric="log_prob")
def pattern_gradient(model: HookedModel | nn.Module, batch: Batch, *, options: Options) -> xr.DataArray:
    """Each attention weight times the metric's gradient, (`layer`, `head`, `query`, `key`, `example`).

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        batch: One batch; no corruption is needed.
        options: See `Options`; the metric is differentiable and needs no reference.

    Source: Hao et al. 2021 (the one-step form of attention attribution).
    """
    model = as_hooked(model)
    pair = on_model(Pair(batch, batch), model)
    nodes = select_nodes(model, "pattern")
    names = nodes.hooks(model)
    _, positions, _ = pair.clean.at_scored()
    scorer = Scorer.of(pair, options, take(record(model, pair.clean.inputs, [])[0], positions))
    mine, grads = gradients(model, pair.clean.inputs, names, lambda output: scorer(take(output, positions)))
    products = rearrange([mine[name] * grads[name] for name in names], "layer example ... -> layer ... example")
    return labelled(
        products, ["layer", "head", "query", "key", "example"], metric=scorer.name, method="pattern x gradient"
    )
