"""Exact effects of nodes: one activation at a time takes its value from the other run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Metric, Pair, Site, SiteError, labelled, patching_result, suggest
from mechinterp.interventions import Ablation, Direction, check_ablation, check_unhooked, on_model, quiet, take
from mechinterp.models import Transformer
from mechinterp.patching.changes import HEAD_KINDS, LAYER_KINDS, WHOLE_KINDS, Change, node_change
from mechinterp.patching.places import At, Places, places
from mechinterp.patching.plain import plain_nodes
from mechinterp.patching.runs import Runs

BUDGET_MB = 64.0
GROUPS = 6
"""Positions are patched in about this many groups, each computed from its first position on (see `resume`)."""


def patch_nodes(
    model: Any,
    pair: Pair,
    site: str | Site = "z",
    at: At = "pos",
    metric: str | Metric = "logit_diff",
    direction: Direction = "denoise",
    ablation: Ablation = "resample",
    budget_mb: float = BUDGET_MB,
) -> xr.Dataset:
    """Exact effect of every node of one kind, at every position, at every role, or at all positions together.

    Args:
        model: A `Transformer`; or any model with TransformerLens's hook points, one forward pass per patch.
        pair: Clean and corrupted inputs.
        site: A kind (`z`, `resid_pre`, `resid_mid`, `resid_post`, `attn`, `mlp`, `mlp_post`, `q`, `k`, `v`,
            `result`, `pattern`, `input`, `embed`, `pos`), or one address (`L1.H3.z`, `L0.mlp`).
        at: `pos`, `role` or `all`. A pattern's position is its query.
        metric: A name or a function.
        direction: `denoise` puts clean values into the corrupted run, `noise` the reverse.
        ablation: With `noise`, what replaces the clean value.
        budget_mb: Memory for the activations of the patched runs; it changes the time, not the result.

    Returns:
        `effect` with dimensions `layer`, `head` or `feature` (as the kind has them), `pos` or `role`, `example`;
        `clean` and `corrupted` per example. Positive means that keeping the clean value helps. Examples in which a
        role is absent are NaN.

    Raises:
        SiteError: If the model has no such site.
        ConfigError: If an argument has no meaning.

    Source: Vig et al. 2020 and Meng et al. 2022 (activation patching); directions as in Heimersheim & Nanda 2024.
    """
    check_ablation(ablation, direction)
    pair = on_model(pair, model)
    where = places(pair.clean, at)
    attrs = {"site": str(site), "at": at, "direction": direction, "ablation": ablation}
    if not isinstance(model, Transformer):
        return plain_nodes(model, pair, site, where, metric, direction, ablation).assign_attrs(attrs)
    kind, layers, heads = which(model, site)
    check_unhooked(model)
    with quiet(model):
        runs = Runs.of(model, pair, metric, direction, ablation)
        rows = [layer_effects(runs, node_change(runs, kind, layer, heads), where, budget_mb) for layer in layers]
    effect = torch.where(where.absent, torch.nan, torch.stack(rows))
    unit = "head" if kind in HEAD_KINDS else "feature"
    labels = list(heads) if kind in HEAD_KINDS else list(range(effect.shape[1]))
    place = where.dims[0] if where.dims else "place"
    coords = {"layer": list(layers), unit: labels, place: where.labels}
    result = labelled(effect, ["layer", unit, place, "example"], coords)
    lost = {"layer": kind in WHOLE_KINDS, unit: kind not in (*HEAD_KINDS, "mlp_post"), place: not where.dims}
    result = result.isel({name: 0 for name, gone in lost.items() if gone}, drop=True)
    return patching_result(result, runs.clean, runs.corrupted, metric=runs.scorer.name, method="exact", **attrs)


def which(model: Transformer, site: str | Site) -> tuple[str, range, range]:
    """The kind of a site, and the layers and heads that are asked for.

    Raises:
        SiteError: If the model has no such site.
    """
    graph, config = model.config.graph(), model.config
    every = range(config.n_layers), range(config.n_heads)
    kinds = (*HEAD_KINDS, *LAYER_KINDS, *WHOLE_KINDS)
    if isinstance(site, str) and "." not in site and not site.startswith("L"):
        site = Site(site) if site in WHOLE_KINDS else Site(site, 0)
        found = graph.check_site(site)
        asked = every
    else:
        found = graph.check_site(site)
        assert found.layer is not None or found.kind in WHOLE_KINDS
        layers = range(1) if found.layer is None else range(found.layer, found.layer + 1)
        asked = layers, every[1] if found.head is None else range(found.head, found.head + 1)
    if found.kind not in kinds:
        raise SiteError(f"no node effects for '{found.kind}'.{suggest(found.kind, kinds)}")
    if found.kind in ("resid_mid", "mlp", "mlp_post") and not config.d_mlp:
        raise SiteError(f"no site '{found.kind}': the model is attention only (d_mlp=0)")
    if found.kind == "pos" and config.positions != "learned":
        raise SiteError(f"no site 'pos': positions='{config.positions}' are not added to the residual stream")
    return found.kind, range(1) if found.kind in WHOLE_KINDS else asked[0], asked[1]


def layer_effects(runs: Runs, change: Change, where: Places, budget_mb: float) -> Float[Tensor, "unit place batch"]:
    """Effects of one layer's nodes; places that provably change nothing are zero without a run."""
    scored, config = runs.resumer.positions, runs.model.config
    effect = runs.clean.new_zeros(change.units, *where.masks.shape[:2])
    seq = where.masks.shape[-1]
    first = torch.where(where.masks.any(-1), where.masks.to(torch.int8).argmax(-1), seq)
    alive = where.masks.any(-1).any(-1)
    if config.causal:
        # A change at p reaches positions from p on: beyond the last scored one it reaches no score.
        alive &= (first <= scored.amax(-1)).any(-1)
    if change.kept and change.local:
        # After the last attention positions no longer mix: only patches at scored positions reach a score.
        alive &= take(where.masks[..., None], scored).flatten(1).any(-1)
    starts = first.amin(-1) if config.causal and not change.kept else torch.zeros_like(first[:, 0])
    order = alive.nonzero()[:, 0]
    order = order[starts[order].argsort(stable=True)]
    if not len(order):
        return effect
    for group in order.split(max(1, -(-len(where.masks) // GROUPS))):
        start = int(starts[group].min())
        for part, unit in _chunks(runs, change, group, seq - start, budget_mb):
            output = change.run(where.masks[part], unit, start)
            effect[unit.start : unit.stop, part] = runs.effect(output).transpose(0, 1)
    return effect


def _chunks(runs: Runs, change: Change, group: Tensor, tail: int, budget_mb: float) -> Iterator[tuple[Tensor, range]]:
    """Places and units that are run together, within the memory budget."""
    many = runs.affordable(tail, budget_mb)
    units = min(change.units, many)
    for part in group.split(max(1, many // units)):
        for first in range(0, change.units, units):
            yield part, range(first, min(first + units, change.units))
