"""Attribution patching: gradient estimates of node effects, for models where exact effects cost too much.

They are first-order: `(clean value - other value) . gradient`, signed as the exact effects are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from einops import rearrange
from torch import Tensor, nn

from mechinterp.core import Batch, HookedModel, Options, Pair, Site, labelled, patching_result, takes
from mechinterp.core.progress import Bars, Progress
from mechinterp.interventions import Scorer, ablated, as_hooked, gradients, on_model, placement, record, take
from mechinterp.patching.parts import parts_of
from mechinterp.patching.places import Places, places
from mechinterp.patching.select import Nodes, node_result, select_nodes

GRADIENTS_MB = 512.0
"""More examples at a time make no estimate faster."""


@takes("metric", "direction", "ablation", "budget_mb")
def estimate_nodes(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    site: str | Site = "z",
    at: str = "pos",
    progress: bool | Progress = False,
    options: Options,
) -> xr.Dataset:
    """Attribution patching: estimated effect of every node, in the shape of `patch_nodes`.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        pair: Clean and corrupted inputs.
        site: A kind or an address, as for `patch_nodes`.
        at: `pos`, `role` or `all`.
        progress: True for a bar with a forecast, or a function called with (what, done, total).
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
    names, options = nodes.hooks(model), options.for_model(model)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), Bars(progress) as tell:
        parts = _node_parts(model, pair, options)
        mean = _mean_values(model, names, parts, options)
        for part in parts:
            columns.append(_part(model, part, nodes, names, places(part.clean, at), mean, options))
            tell("examples estimated", sum(len(clean) for _, clean, _ in columns), len(pair))
    effect, clean, corrupted = (torch.cat(each, -1) for each in zip(*columns, strict=True))
    attrs = {"site": str(site), "at": at, **options.attrs("metric", "direction", "ablation")}
    result = node_result(effect, nodes, where)
    return patching_result(result, clean, corrupted, method="attribution patching", **attrs)


def _part(
    model: HookedModel,
    part: Pair,
    nodes: Nodes,
    names: Sequence[str],
    where: Places,
    mean: Mapping[str, Tensor],
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """Effects `[layer, unit, place, batch]`, and the metric of both runs."""
    noise = options.direction == "noise"
    base, other = (part.clean, part.corrupted) if noise else (part.corrupted, part.clean)
    _, positions, _ = part.clean.at_scored()
    theirs = mean or record(model, other.inputs, names)[1]
    outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (part.clean, part.corrupted)]
    scorer = Scorer.of(part, options, outputs[0])
    values = [scorer(output) for output in outputs]
    mine, grads = gradients(model, base.inputs, names, lambda output: scorer(take(output, positions)))
    rows = []
    for name in names:
        here = mine.pop(name)
        value, reference, grad = map(nodes.seq_second, (here, theirs[name].expand_as(here), grads.pop(name)))
        step = value - ablated(reference, options.ablation)
        product = (step if noise else -step) * grad
        if nodes.unit == "head":
            product = product.sum(-1)[:, :, nodes.heads.start : nodes.heads.stop]
        elif nodes.unit is None:
            product = product.sum(-1, keepdim=True)
        rows.append(torch.einsum("bsu,pbs->upb", product, where.masks.to(product.dtype)))
    return torch.stack(rows), values[0], values[1]


def _node_parts(model: HookedModel, pair: Pair, options: Options) -> list[Pair]:
    """Parts whose graph, activations and gradients at all hooks fit the memory."""
    cfg, (device, dtype), seq = model.cfg, placement(model), pair.clean.seq_len
    layer = 3 * cfg.n_heads * (cfg.d_model + seq) + 16 * cfg.d_model + 6 * (getattr(cfg, "d_mlp", 0) or 0)
    outputs = 3 * (getattr(cfg, "d_vocab_out", 0) or 0)
    example = seq * (cfg.n_layers * layer + outputs) * dtype.itemsize
    return parts_of(pair, example, options.memory(GRADIENTS_MB, device))


def _mean_values(
    model: HookedModel, names: Sequence[str], parts: Sequence[Pair], options: Options
) -> dict[str, Tensor]:
    """What replaces the other run's values in every part, where a mean is over the examples of several."""
    means: dict[str, Tensor] = {}
    if len(parts) == 1 or not options.ablation.startswith("mean"):
        return means
    count = sum(map(len, parts))
    for part in parts:
        other = part.corrupted if options.direction == "noise" else part.clean
        for name, value in record(model, other.inputs, names)[1].items():
            means[name] = means.get(name, 0) + value.sum(0, keepdim=True) / count
    return means


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
