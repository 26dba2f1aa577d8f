"""Measures of what interventions show: exact effects of nodes and edges."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechinterp.core import OPTIONS, ConfigError, HookedModel, Options, Pair, takes
from mechinterp.core.memo import remembered
from mechinterp.discovery import discover
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.patching import patch_edges, patch_nodes
from mechinterp.tasks import ALL, Task


@register_measure("node_effects", examples_of="edge_effects")
@takes("metric", "ablation", direction="denoise")
def node_effects(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    site: str = "z",
    at: str = "role",
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """Exact effect of every node of one kind, in the metric's unit; arguments and dimensions as in `patch_nodes`."""
    pair = task.pair(examples, seed, corruption)
    result = patch_nodes(model, pair, site=site, at=at, options=options)
    return result["effect"].assign_attrs(result.attrs)


@register_measure("edge_effects")
@takes("metric", "direction", "ablation", "inputs")
def edge_effects(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """Exact effect of every edge, in the metric's unit: dimensions edge, example; arguments as in `patch_edges`."""
    result = exact_edges(model, task.pair(examples, seed, corruption), options)
    return result["effect"].assign_attrs(result.attrs)


@register_measure("circuit", examples_of="edge_effects")
@takes("metric", "ablation", "inputs")
def circuit(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    share: float = OPTIONS["share"].default,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """Which edges are in the circuit that `discover` finds: the fewest of largest exact effect that reach a share.

    The effects are those of `edge_effects`, taken once where both are traced. `evaluation.overlaps` compares the
    circuits of a timeline; how good one is on other pairs, `circuit_quality` tells.

    Args:
        model: A Transformer.
        task: Draws the pairs.
        seed: Of the pairs.
        share: Of the gap that the circuit reaches under each corruption.
        examples: Pairs.
        corruption: One of the task's, or `all` of them mixed.
        options: See `Options`.

    Returns:
        Dimension edge: 1 in the circuit, 0 outside; all NaN where there is no gap.

    Raises:
        UnsupportedError: If the model has no graph of edges.
    """
    pair = task.pair(examples, seed, corruption)
    effects = exact_edges(model, pair, options.change(direction="noise"))
    membership = effects["effect"].mean("example").drop_attrs()
    try:
        chosen = discover(model, pair, share=share, scores=effects, options=options)
    except ConfigError:  # there is no gap, or no share of it is reached
        return membership.copy(data=np.full(membership.shape, np.nan))
    names = {str(edge) for edge in chosen}
    return membership.copy(data=np.array([float(str(edge) in names) for edge in membership["edge"].values]))


def exact_edges(model: HookedModel, pair: Pair, options: Options) -> xr.Dataset:
    """What `patch_edges` gives, computed once for the measures of one checkpoint that share the pair."""
    return remembered("runs", (model, pair, options), lambda: patch_edges(model, pair, options=options))
