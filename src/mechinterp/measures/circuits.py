"""Measures of circuits: what removing edges costs, and how good a circuit is that is given or found."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import xarray as xr

from mechinterp.core import (
    SEEN,
    Circuit,
    Edge,
    Graph,
    HookedModel,
    Options,
    UnsupportedError,
    derive_seed,
    example_names,
    held_out,
    join_names,
    labelled,
    takes,
)
from mechinterp.core.options import OPTIONS
from mechinterp.core.statistics import Null
from mechinterp.discovery import discover
from mechinterp.evaluation import live_edges, random_circuits
from mechinterp.interventions import Judge
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.tasks import ALL, Task

QUALITY_SCORES = ("faithfulness", "removal_cost", "null_p95", "null_removal_p95", "size", "live_edges")


@register_measure("removal")
@takes("metric", "ablation")
def removal(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    edges: Sequence[str] = ("*->logits",),
    each: bool = False,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    least_gap: float | None = None,
    options: Options,
) -> xr.DataArray:
    """Share of the gap between clean and corrupted run that is lost when edges are removed.

    Args:
        model: A Transformer.
        task: Draws the pairs.
        seed: Of the pairs.
        edges: Edges to remove, or patterns of them: `L0.H*->L1.H*.k`.
        each: Remove each edge alone; otherwise all together.
        examples: Pairs.
        corruption: One of the task's, or `all` of them mixed.
        least_gap: The smallest gap, in the metric's unit, that shares are taken of.
        options: See `Options`.

    Returns:
        Dimensions `edge` (with `each`) and `example`: the mean over examples is the ratio of mean loss to mean gap,
        and their spread is that ratio's (first order). NaN where the gap may be zero, or below `least_gap`.

    Raises:
        UnsupportedError: If the model has no graph of edges, or none that fits a pattern.
    """
    judge = Judge(model, task.pair(examples, seed, corruption), options, least_gap)
    removed = _matching(judge.graph, edges)
    if not each:
        return labelled(judge.lost_rows(Circuit(removed)), ["example"])
    judge.scores([judge.whole - Circuit([edge]) for edge in removed])  # all at once
    shares = np.stack([judge.lost_rows(Circuit([edge])) for edge in removed])
    return labelled(shares, ["edge", "example"], {"edge": [str(edge) for edge in removed]})


@register_measure("circuit_faithfulness")
@takes("metric", "ablation", "inputs")
def circuit_faithfulness(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    edges: Sequence[str],
    examples: int = EXAMPLES,
    corruption: str = ALL,
    least_gap: float | None = None,
    options: Options,
) -> xr.DataArray:
    """How much of the model's gap a given circuit recovers, here and now.

    Args:
        model: The model.
        task: Draws the pairs.
        seed: Of the pairs.
        edges: The circuit.
        examples: How many pairs.
        corruption: One of the task's, or `all` of them mixed.
        least_gap: The smallest gap, in the metric's unit, that shares are taken of.
        options: See `Options`; the circuit is written in its input convention.

    Returns:
        Dimensions quantity, example. `full`, `circuit`, `empty`: the metric of the whole model, the circuit and the
        empty circuit. `complement`: the metric of the model without the circuit. `faithfulness`: values whose mean is
        the ratio of mean (circuit - empty) to mean gap, with that ratio's spread (first order); NaN where the gap may
        be zero, or below `least_gap`.
    """
    judge = Judge(model, task.pair(examples, seed, corruption), options, least_gap)
    circuit = judge.circuit(edges)
    tried = [judge.whole, circuit, judge.empty, judge.whole - circuit]
    rows = np.concatenate([judge.scores(tried), judge.recovered_rows(circuit)[None]])
    names = ["full", "circuit", "empty", "complement", "faithfulness"]
    return labelled(rows, ["quantity", "example"], {"quantity": names}, metric=judge.options.metric_name)


@register_measure("circuit_quality")
@takes("metric", "ablation")
def circuit_quality(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    edges: Sequence[str] | None = None,
    share: float = OPTIONS["share"].default,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    nulls: int = OPTIONS["nulls"].default,
    least_gap: float | None = None,
    options: Options,
) -> xr.DataArray:
    """How good a circuit is, on pairs that it was not found on.

    Args:
        model: A Transformer.
        task: Draws the pairs: some to find the circuit on, others to judge it.
        seed: Of the pairs and of random circuits.
        edges: The circuit (`circuit_faithfulness` is quicker where no null is asked for); by default `discover` finds
            it: the fewest edges of largest exact effect that reach `share`.
        share: Of the gap, where the circuit is to be found.
        examples: Pairs to find on, and as many to judge on; those among the second that are among the first, too, are
            left out. The attribute `left_out` is their number.
        corruption: One of the task's, or `all` of them mixed.
        nulls: Random circuits of the same size; 0 leaves their scores NaN.
        least_gap: The smallest gap, in the metric's unit, that shares are taken of.
        options: See `Options`.

    Returns:
        Dimensions `score`, `example`. `faithfulness` and `removal_cost` have the ratio of means as their mean, and its
        spread (first order). The same for every example: `null_p95` and `null_removal_p95`, the 95th percentiles of
        random circuits' faithfulness and of what removing them costs; `size`, its edges that are not identically zero;
        `live_edges`, all such edges of the model. All NaN where the gap may be zero, or that under some corruption of
        the pairs to find the circuit on.

    Raises:
        UnsupportedError: If the model has no graph of edges.
        ConfigError: If the task draws too few different pairs: fewer than two are left to judge on.
    """
    search_pair, pair = (task.pair(examples, derive_seed(seed, use), corruption) for use in ("find", "judge"))
    left_out = 0
    if edges is None:
        pair, left_out = held_out(pair, {SEEN: join_names(example_names(search_pair))})
    search, judge = (Judge(model, one, options, least_gap) for one in (search_pair, pair))
    coords = {"score": list(QUALITY_SCORES)}
    if not (judge.gap.valid and (edges is not None or search.has_gaps)):
        missing = np.full((len(QUALITY_SCORES), len(pair)), np.nan)
        return labelled(missing, ["score", "example"], coords, left_out=left_out)
    circuit = judge.circuit(edges) if edges is not None else discover(model, search.pair, share=share, options=options)
    live = live_edges(model, judge.pair, options=judge.options)
    core = (circuit & Circuit(live)).pruned()
    random = random_circuits(judge.graph, len(core), live, nulls, seed)
    judge.scores([circuit, judge.whole - circuit, *random, *(judge.whole - one for one in random)])  # all at once
    chance = [Null(shares(random)).p95 for shares in (judge.recovered_shares, judge.lost_shares)]
    numbers = (*chance, float(len(core)), float(len(Circuit(live).pruned())))
    rows = [judge.recovered_rows(circuit), judge.lost_rows(circuit)]
    rows += [np.full(len(pair), number) for number in numbers]
    return labelled(np.stack(rows), ["score", "example"], coords, left_out=left_out)


def _matching(graph: Graph, patterns: Sequence[str]) -> list[Edge]:
    chosen: list[Edge] = []
    for pattern in patterns:
        fits = [edge for edge in graph.edges if fnmatchcase(str(edge), pattern)]
        if not fits:
            raise UnsupportedError(
                f"no edge fits '{pattern}': this model has edges such as '{graph.edges[0]}' (* is any part)"
            )
        chosen += [edge for edge in fits if edge not in chosen]
    return chosen
