"""Measures of what interventions show: exact effects of nodes and edges."""

from __future__ import annotations

import xarray as xr

from mechinterp.core import HookedModel, Options, takes
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
    result = patch_edges(model, task.pair(examples, seed, corruption), options=options)
    return result["effect"].assign_attrs(result.attrs)
