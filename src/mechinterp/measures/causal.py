"""Measures of what interventions show: effects of nodes and edges, and how much a given circuit does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from mechinterp.core import Circuit, labelled
from mechinterp.core.statistics import t_interval
from mechinterp.interventions import graph_of, score_circuits
from mechinterp.measures.registry import register_measure
from mechinterp.patching import patch_edges, patch_nodes
from mechinterp.tasks import ALL, Task


@register_measure("node_effects")
def node_effects(
    model: Any,
    task: Task,
    seed: int,
    site: str = "z",
    at: str = "role",
    metric: str = "logit_diff",
    direction: str = "denoise",
    ablation: str = "resample",
    examples: int = 64,
    corruption: str = ALL,
) -> xr.DataArray:
    """Exact effect of every node of one kind, in the metric's unit; arguments and dimensions as in `patch_nodes`."""
    pair = task.pair(examples, seed, corruption)
    found = patch_nodes(model, pair, site, at, metric, direction, ablation)
    return found["effect"].assign_attrs(found.attrs)


@register_measure("edge_effects")
def edge_effects(
    model: Any,
    task: Task,
    seed: int,
    metric: str = "logit_diff",
    direction: str = "noise",
    ablation: str = "resample",
    inputs: str = "merged",
    examples: int = 64,
    corruption: str = ALL,
) -> xr.DataArray:
    """Exact effect of every edge, in the metric's unit: dimensions edge, example; arguments as in `patch_edges`."""
    pair = task.pair(examples, seed, corruption)
    found = patch_edges(model, pair, direction, ablation, metric, inputs)
    return found["effect"].assign_attrs(found.attrs)


@register_measure("circuit_faithfulness")
def circuit_faithfulness(
    model: Any,
    task: Task,
    seed: int,
    edges: Sequence[str],
    inputs: str = "merged",
    metric: str = "logit_diff",
    ablation: str = "resample",
    examples: int = 64,
    corruption: str = ALL,
) -> xr.DataArray:
    """How much of the model's gap a given circuit recovers, here and now.

    Args:
        model: The model.
        task: Draws the pairs.
        seed: Of the pairs.
        edges: The circuit.
        inputs: The input convention that it is written in.
        metric: The metric.
        ablation: What absent edges carry.
        examples: How many pairs.
        corruption: One of the task's, or `all` of them mixed.

    Returns:
        Dimensions quantity, example. `full`, `circuit`, `empty`: the metric of the whole model, the circuit and the
        empty circuit. `faithfulness`: each example's `(circuit - empty)` over the *mean* gap, so that its mean is
        the faithfulness (a ratio of means); NaN where the gap's interval contains zero. `complement`: the metric
        of the model without the circuit.
    """
    pair = task.pair(examples, seed, corruption)
    graph = graph_of(model, inputs)
    circuit = Circuit(edges, inputs)
    whole, empty = Circuit(graph.edges, inputs), Circuit([], inputs)
    tried = [whole, circuit, empty, whole - circuit]
    scores = score_circuits(model, pair, tried, metric=metric, ablation=ablation)
    gap = scores[0] - scores[2]
    low, high = t_interval(gap.detach().cpu().numpy())
    unit = gap.mean() if low > 0 or high < 0 else torch.tensor(float("nan"))
    share = (scores[1] - scores[2]) / unit
    names = ["full", "circuit", "empty", "complement", "faithfulness"]
    return labelled(torch.cat([scores, share[None]]), ["quantity", "example"], {"quantity": names}, metric=metric)
