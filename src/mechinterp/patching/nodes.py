"""Exact effects of nodes: one activation at a time takes its value from the other run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import HookedModel, Options, Pair, Site, patching_result, takes
from mechinterp.core.progress import Bars, Progress
from mechinterp.interventions import as_hooked, on_model, quiet, resume
from mechinterp.models import Transformer
from mechinterp.patching.changes import Change, node_change
from mechinterp.patching.parts import node_parts, shared_mean
from mechinterp.patching.places import Places, places
from mechinterp.patching.plain import plain_nodes
from mechinterp.patching.runs import Runs
from mechinterp.patching.select import node_result, select_nodes

PATCHES_MB = 32.0
"""More memory for patched runs makes them no faster."""
GROUPS = 12
"""Positions are patched in about this many groups, each computed from its first position on (see `resume`)."""


@takes("metric", "ablation", "budget_mb", direction="denoise")
def patch_nodes(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    site: str | Site = "z",
    at: str = "pos",
    progress: bool | Progress = False,
    options: Options,
) -> xr.Dataset:
    """Exact effect of every node of one kind, at every position, at every role, or at all positions together.

    Args:
        model: A `Transformer`; or any model with TransformerLens's hook points, one forward pass per patch.
        pair: Clean and corrupted inputs.
        site: A kind (`z`, `resid_pre`, `resid_mid`, `resid_post`, `attn`, `mlp`, `mlp_post`, `q`, `k`, `v`,
            `result`, `pattern`, `input`, `embed`, `pos`), or one address (`L1.H3.z`, `L0.mlp`).
        at: `pos`, `role` or `all`. A pattern's position is its query.
        progress: True for a bar with a forecast, or a function called with (what, layers done, layers), once for each
            part of the examples.
        options: See `Options`.

    Returns:
        `effect` with dimensions `layer`, `head` or `feature` (as the kind has them), `pos` or `role`, `example`;
        `clean` and `corrupted` per example. Positive means that keeping the clean value helps. Examples in which a
        role is absent are NaN.

    Raises:
        SiteError: If the model has no such site.
        ConfigError: If an argument has no meaning.

    Source: Vig et al. 2020 and Meng et al. 2022 (activation patching); directions as in Heimersheim & Nanda 2024.
    """
    model = as_hooked(model)
    options = options.for_model(model)
    pair = on_model(pair, model)
    where, nodes = places(pair.clean, at), select_nodes(model, site)
    attrs = {"site": str(site), "at": at, **options.attrs("metric", "direction", "ablation")}
    if not isinstance(model, Transformer):
        return plain_nodes(model, pair, nodes, where, options).assign_attrs(attrs)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    with quiet(model), Bars(progress) as tell:
        parts = node_parts(model, pair, nodes.kind, options)
        mean = shared_mean(model, parts, options)
        total = len(parts) * len(nodes.layers)
        for part in parts:
            runs = Runs.of(model, part, options, mean, PATCHES_MB)
            some, effects = places(part.clean, at), []
            for layer in nodes.layers:
                effects.append(layer_effects(runs, node_change(runs, nodes.kind, layer, nodes.heads), some))
                tell("layers", len(columns) * len(nodes.layers) + len(effects), total)
            columns.append((torch.stack(effects), runs.clean, runs.corrupted))
    effect, clean, corrupted = (torch.cat(each, -1) for each in zip(*columns, strict=True))
    return patching_result(node_result(effect, nodes, where), clean, corrupted, method="exact", **attrs)


def layer_effects(runs: Runs, change: Change, where: Places) -> Float[Tensor, "unit place batch"]:
    """Effects of one layer's nodes; places that provably change nothing are zero without a run."""
    causal, seq = runs.model.config.causal, where.masks.shape[-1]
    effect = runs.clean.new_zeros(change.units, *where.masks.shape[:2])
    # What runs is decided on the CPU: on a GPU each look at a number would wait for all that runs there.
    masks, scored = where.masks.cpu(), runs.base.scored.index.cpu()
    reaches = masks.any(-1)
    first = torch.where(reaches, masks.to(torch.int8).argmax(-1), seq)
    mixes = runs.base.mixes_after(change.layer, change.stage)
    if causal:
        # A change at p reaches positions from p on: beyond the last scored one it reaches no score.
        reaches &= first <= scored.amax(-1)
    if change.local and not mixes:
        # After the last attention positions no longer mix: only patches at scored positions reach a score.
        reaches &= masks.gather(-1, scored.expand(len(masks), *scored.shape)).any(-1)
    starts = first.amin(-1) if causal and mixes else torch.zeros_like(first[:, 0])
    order = reaches.any(-1).nonzero()[:, 0]
    order = order[starts[order].argsort(stable=True)]
    if not len(order):
        return effect
    for group in order.split(max(1, -(-len(where.masks) // GROUPS))):
        start = int(starts[group].min())
        for part, units in _chunks(runs, change, group, seq - start):
            part = part.to(effect.device)
            output = resume(runs.base, change.start(runs, where.masks[part], units, start))
            effects = runs.effect(output.unflatten(0, (len(part), len(units))))
            effect[units.start : units.stop, part] = effects.transpose(0, 1)
    # Rounding of batched products must not show where the effect is proven to be zero.
    return torch.where(reaches.to(effect.device), effect, 0.0)


def _chunks(runs: Runs, change: Change, group: Tensor, tail: int) -> Iterator[tuple[Tensor, range]]:
    """Places and units that are run together, within the memory budget."""
    many = runs.affordable(tail)
    units = min(change.units, many)
    for part in group.split(max(1, many // units)):
        for first in range(0, change.units, units):
            yield part, range(first, min(first + units, change.units))
