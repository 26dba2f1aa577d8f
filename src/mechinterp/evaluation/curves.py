"""Faithfulness against the number of edges: our anchored curve, and MIB's CPR and CMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import Circuit, ConfigError, Metric, Pair, rank_edges, resolve_metric
from mechinterp.core.statistics import Gap, gap_between
from mechinterp.evaluation.scores import Scores, edge_scores, score_every_edge
from mechinterp.evaluation.scoring import scorer
from mechinterp.evaluation.truth import FRACTIONS
from mechinterp.interventions import Ablation, graph_of


def curve(
    scores: Scores,
    model: Any,
    pair: Pair,
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
    by: str = "signed",
    ks: Sequence[int] | None = None,
) -> xr.Dataset:
    """The anchored curve: faithfulness of the k highest-scored edges, for every k from 0 to all.

    Prefixes of the ranking are pruned to whole paths before they run, as MIB does; `size` is what is left.

    Args:
        scores: A score for every edge of the model, from other examples than this pair's.
        model: The model.
        pair: Clean and corrupted examples.
        metric: A name or a function.
        ablation: What absent edges carry.
        by: Rank by `signed` or `absolute` score.
        ks: Which k; every one by default. 0 and all edges are always there.

    Returns:
        `faithfulness` (k), NaN where `valid` is False; `size` (k); `m` (k), the mean metric; `edge` (rank), the
        ranking; `m_full`, `m_empty`, `gap`, `gap_low`, `gap_high`, `valid`; `area`, the anchored area: the trapezoid of
        faithfulness over k / number of edges, from 0 to 1.

    Raises:
        ConfigError: If an edge has no score or k is out of range.
    """
    ranked, graph = _ranked(scores, model, by)
    chosen = range(len(ranked) + 1) if ks is None else sorted({0, len(ranked), *ks})
    if chosen[0] < 0 or chosen[-1] > len(ranked):
        raise ConfigError(f"k runs from 0 to {len(ranked)}, the number of edges; got {chosen[0]} to {chosen[-1]}")
    circuits = [Circuit(ranked[:k], graph.inputs).pruned() for k in chosen]
    m = scorer(model, pair, metric, ablation)(
        [*circuits, Circuit(graph.edges, graph.inputs), Circuit([], graph.inputs)]
    )
    gap = gap_between(m[-2], m[-1])
    faithfulness = (m[:-2].mean(1) - m[-1].mean()) / gap.unit
    share = np.array(chosen) / len(ranked)
    made = _base(gap, m[-2], m[-1]).assign(
        faithfulness=("k", faithfulness),
        m=("k", m[:-2].mean(1)),
        size=("k", np.array([len(circuit) for circuit in circuits])),
        edge=("rank", np.array([str(edge) for edge in ranked])),
        area=np.trapezoid(faithfulness, share),
    )
    made = made.assign_coords(k=np.array(chosen), rank=np.arange(1, len(ranked) + 1))
    return made.assign_attrs(_attrs(metric, ablation, pair), by=by, inputs=graph.inputs)


def fewest_edges(result: xr.Dataset, share: float = 0.9) -> int | None:
    """The smallest k of a `curve` that reaches a share of the gap; None where none does, or the gap may be zero.

    The k is chosen on the curve's pair: report the faithfulness of `circuit_at(result, k)` on another one.
    """
    reached = result["k"].values[np.nan_to_num(result["faithfulness"].values, nan=-np.inf) >= share]
    return int(reached[0]) if reached.size else None


def circuit_at(result: xr.Dataset, k: int) -> Circuit:
    """The circuit of the first k edges of a `curve`'s ranking, pruned to whole paths."""
    edges = result["edge"].values[:k].tolist()
    return Circuit(edges, result.attrs["inputs"], {"method": "curve", "k": k, "pair": result.attrs["pair"]}).pruned()


def cpr_cmd(
    scores: Scores,
    model: Any,
    pair: Pair,
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
) -> xr.Dataset:
    """CPR and CMD exactly as MIB defines them.

    At ten fractions x of the edges the int(x |E|) first edges are taken, pruned to whole paths and run. CPR is the
    trapezoid of faithfulness f over x, edges ranked by signed score (higher is better); CMD the trapezoid of |1 - f|,
    ranked by absolute score (lower is better). x runs from 0.001 to 1 and there is no point at 0. Under about 1,000
    edges the first fractions give k = 0 or 1: read `curve` beside it.

    Args:
        scores: A score for every edge of the model, from other examples than this pair's.
        model: The model.
        pair: Clean and corrupted examples.
        metric: A name or a function.
        ablation: What absent edges carry.

    Returns:
        `cpr`, `cmd`; `faithfulness` (ranking, fraction); `k` (fraction); `size` (ranking, fraction); `m_full`,
        `m_empty`, `gap`, `gap_low`, `gap_high`, `valid`. NaN where `valid` is False.

    Source: Mueller et al. 2025 (MIB), `evaluate_area_under_curve`.
    """
    ks, circuits = np.array([], dtype=int), []
    for by in ("signed", "absolute"):
        ranked, graph = _ranked(scores, model, by)
        ks = np.array([int(fraction * len(ranked)) for fraction in FRACTIONS])
        circuits += [Circuit(ranked[:k], graph.inputs).pruned() for k in ks]
    m = scorer(model, pair, metric, ablation)(
        [*circuits, Circuit(graph.edges, graph.inputs), Circuit([], graph.inputs)]
    )
    gap = gap_between(m[-2], m[-1])
    faithfulness = ((m[:-2].mean(1) - m[-1].mean()) / gap.unit).reshape(2, -1)
    made = _base(gap, m[-2], m[-1]).assign(
        cpr=np.trapezoid(faithfulness[0], FRACTIONS),
        cmd=np.trapezoid(np.abs(1 - faithfulness[1]), FRACTIONS),
        faithfulness=(("ranking", "fraction"), faithfulness),
        size=(("ranking", "fraction"), np.array([len(circuit) for circuit in circuits]).reshape(2, -1)),
        k=("fraction", ks),
    )
    made = made.assign_coords(ranking=["signed", "absolute"], fraction=list(FRACTIONS))
    return made.assign_attrs(_attrs(metric, ablation, pair))


def _ranked(scores: Scores, model: Any, by: str) -> tuple[Any, Any]:
    found = edge_scores(scores)
    split = any(edge.source.kind in ("embed", "pos") for edge in found)
    graph = graph_of(model, "split" if split else "merged")
    return rank_edges(score_every_edge(found, graph), by), graph


def _base(gap: Gap, full: np.ndarray, empty: np.ndarray) -> xr.Dataset:
    made = {"m_full": full.mean(), "m_empty": empty.mean(), "gap": gap.mean}
    return xr.Dataset({**made, "gap_low": gap.low, "gap_high": gap.high, "valid": gap.valid})


def _attrs(metric: str | Metric, ablation: str, pair: Pair) -> dict[str, str]:
    name = resolve_metric(metric)[0]
    return {"metric": name, "ablation": ablation, "pair": pair.fingerprint, "version": __version__}
