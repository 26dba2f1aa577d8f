"""Measures of circuits: what removing edges costs, and how good a circuit is that was found anew or is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.core import Circuit, Edge, Graph, Pair, UnsupportedError, derive_seed, labelled
from mechinterp.core.statistics import ratio_rows
from mechinterp.discovery import discover
from mechinterp.evaluation import live_edges, random_circuits
from mechinterp.evaluation.scoring import scorer
from mechinterp.interventions import graph_of
from mechinterp.measures.registry import register_measure
from mechinterp.tasks import ALL, Task

SCORES = ("faithfulness", "removal_cost", "null_p95", "null_removal_p95", "size", "live_edges")


@register_measure("removal")
def removal(
    model: Any,
    task: Task,
    seed: int,
    edges: Sequence[str] = ("*->logits",),
    each: bool = False,
    corruption: str = ALL,
    ablation: str = "resample",
    metric: str = "logit_diff",
    examples: int = 128,
) -> xr.DataArray:
    """Share of the gap between clean and corrupted run that is lost when edges are removed.

    Args:
        model: A Transformer.
        task: Draws the pairs.
        seed: Of the pairs.
        edges: Edges to remove, or patterns of them: `L0.H*->L1.H*.k`.
        each: Remove each edge alone; otherwise all together.
        corruption: One of the task's, or `all` of them mixed.
        ablation: What a removed edge carries.
        metric: A name.
        examples: Pairs.

    Returns:
        Dimensions `edge` (with `each`) and `example`: the mean over examples is the ratio of mean loss to mean gap,
        and their spread is that ratio's (first order). NaN where the gap may be zero.

    Raises:
        UnsupportedError: If the model has no graph of edges, or none that fits a pattern.
    """
    graph = graph_of(model)
    removed = _matching(graph, edges)
    pair = task.pair(examples, seed, corruption)
    groups = [[edge] for edge in removed] if each else [removed]
    whole, empty = Circuit(graph.edges), Circuit()
    circuits = [whole, empty, *(whole - Circuit(group) for group in groups)]
    full, none, *rest = _scores(model, pair, circuits, {"metric": metric, "ablation": ablation})
    shares = np.stack([ratio_rows(full - part, full - none) for part in rest])
    if not each:
        return labelled(shares[0], ["example"])
    return labelled(shares, ["edge", "example"], {"edge": [str(edge) for edge in removed]})


@register_measure("circuit_quality")
def circuit_quality(
    model: Any,
    task: Task,
    seed: int,
    edges: Sequence[str] | None = None,
    share: float = 0.9,
    corruption: str = ALL,
    ablation: str = "resample",
    metric: str = "logit_diff",
    examples: int = 64,
    nulls: int = 50,
) -> xr.DataArray:
    """How good a circuit is, on pairs that it was not found on.

    Args:
        model: A Transformer.
        task: Draws the pairs: some to find the circuit on, others to judge it.
        seed: Of the pairs and of random circuits.
        edges: The circuit (then `circuit_faithfulness` is quicker where no null is asked for); by default it is found
            anew: the fewest edges of largest exact effect that reach `share`.
        share: Of the gap, where the circuit is found anew.
        corruption: One of the task's, or `all` of them mixed.
        ablation: What absent edges carry.
        metric: A name.
        examples: Pairs to find on, and as many to judge on.
        nulls: Random circuits of the same size; 0 leaves their scores NaN.

    Returns:
        Dimensions `score`, `example`. `faithfulness` and `removal_cost` have the ratio of means as their mean, and its
        spread (first order). The same for every example: `null_p95` and `null_removal_p95`, the 95th percentiles of
        random circuits' faithfulness and of what removing them costs; `size`, its edges that are not identically zero;
        `live_edges`, all such edges of the model. All NaN where the gap may be zero.

    Raises:
        UnsupportedError: If the model has no graph of edges.
    """
    graph = graph_of(model)
    find, judge = (task.pair(examples, derive_seed(seed, use), corruption) for use in ("find", "judge"))
    how: dict[str, Any] = {"metric": metric, "ablation": ablation}
    whole, empty = Circuit(graph.edges), Circuit()
    for pair in (find, judge):
        full, none = _scores(model, pair, [whole, empty], how)
        if np.isnan(ratio_rows(full, full - none)).any():
            return labelled(np.full((len(SCORES), examples), np.nan), ["score", "example"], {"score": list(SCORES)})
    asked = Circuit(edges) if edges is not None else discover(model, find, "top-k", share=share, **how)
    live = live_edges(model, judge, **how)
    core = (asked & Circuit(live)).pruned()
    drawn = random_circuits(graph, len(core), live, nulls, seed)
    tried = [whole, empty, asked, whole - asked, *drawn, *(whole - one for one in drawn)]
    full, none, own, without, *null = _scores(model, judge, tried, how)
    recovered = [ratio_rows(row - none, full - none).mean() for row in null[: len(drawn)]]
    removed = [ratio_rows(full - row, full - none).mean() for row in null[len(drawn) :]]
    chance = [float(np.quantile(shares, 0.95)) if drawn else np.nan for shares in (recovered, removed)]
    numbers = (*chance, float(len(core)), float(len(Circuit(live).pruned())))
    rows = [ratio_rows(own - none, full - none), ratio_rows(full - without, full - none)]
    rows += [np.full(examples, number) for number in numbers]
    return labelled(np.stack(rows), ["score", "example"], {"score": list(SCORES)})


def _scores(model: Any, pair: Pair, circuits: Sequence[Circuit], how: dict[str, Any]) -> np.ndarray:
    """`[circuit, example]`."""
    return scorer(model, pair, **how)(circuits)


def _matching(graph: Graph, patterns: Sequence[str]) -> list[Edge]:
    found = []
    for pattern in patterns:
        fits = [edge for edge in graph.edges if fnmatchcase(str(edge), pattern)]
        if not fits:
            raise UnsupportedError(
                f"no edge fits '{pattern}': this model has edges such as '{graph.edges[0]}' (* is any part)"
            )
        found += [edge for edge in fits if edge not in found]
    return found
