"""Faithfulness against the number of edges: our anchored curve, and MIB's CPR and CMD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import nn

from mechinterp._version import __version__
from mechinterp.core import (
    OPTIONS,
    SEEN,
    Circuit,
    ConfigError,
    Edge,
    HookedModel,
    Options,
    Pair,
    example_names,
    held_out,
    join_names,
    rank_edges,
    seen_by,
    takes,
)
from mechinterp.core.edge_scores import Scores, edge_scores, score_every_edge
from mechinterp.evaluation.truth import FRACTIONS
from mechinterp.interventions import Judge


@takes("metric", "ablation")
def curve(
    model: HookedModel | nn.Module,
    pair: Pair,
    scores: Scores,
    *,
    by: str = "signed",
    ks: Sequence[int] | None = None,
    options: Options,
) -> xr.Dataset:
    """The anchored curve: faithfulness of the k highest-scored edges, for every k from 0 to all.

    Prefixes of the ranking are pruned to whole paths before they run, as MIB does; `size` is what is left.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        scores: A score for every edge of the model, from other examples than this pair's: those that the attribute
            `seen` of an analysis' result names are left out.
        by: Rank by `signed` or `absolute` score.
        ks: Which k; every one by default. 0 and all edges are always there.
        options: See `Options`; the input convention is that of the scores.

    Returns:
        `faithfulness` (k), NaN where `valid` is False; `size` (k); `m` (k), the mean metric; `edge` (rank), the
        ranking; `m_full`, `m_empty`, `gap`, `gap_low`, `gap_high`, `valid`; `area`, the anchored area: the trapezoid of
        faithfulness over k / number of edges, from 0 to 1.

    Raises:
        ConfigError: If an edge has no score, k is out of range, or fewer than two examples are left.
    """
    judge, values = _judged(model, pair, scores, options)
    ranked = rank_edges(values, by)
    chosen = range(len(ranked) + 1) if ks is None else sorted({0, len(ranked), *ks})
    if chosen[0] < 0 or chosen[-1] > len(ranked):
        raise ConfigError(f"k runs from 0 to {len(ranked)}, the number of edges; got {chosen[0]} to {chosen[-1]}")
    circuits = [Circuit(ranked[:k], judge.graph.inputs).pruned() for k in chosen]
    faithfulness = judge.recovered_shares(circuits)
    share = np.array(chosen) / len(ranked)
    result = _base(judge).assign(
        faithfulness=("k", faithfulness),
        m=("k", judge.scores(circuits).mean(1)),
        size=("k", np.array([len(circuit) for circuit in circuits])),
        edge=("rank", np.array([str(edge) for edge in ranked])),
        area=np.trapezoid(faithfulness, share),
    )
    result = result.assign_coords(k=np.array(chosen), rank=np.arange(1, len(ranked) + 1))
    return result.assign_attrs(_attrs(judge, pair, scores), by=by, inputs=judge.graph.inputs)


def fewest_edges(result: xr.Dataset, share: float = OPTIONS["share"].default) -> int | None:
    """The smallest k of a `curve` that reaches a share of the gap; None where none does, or the gap may be zero.

    The k is chosen on the curve's pair: report the faithfulness of `circuit_at(result, k)` on another one.
    """
    reached = result["k"].values[np.nan_to_num(result["faithfulness"].values, nan=-np.inf) >= share]
    return int(reached[0]) if reached.size else None


def circuit_at(result: xr.Dataset, k: int) -> Circuit:
    """The circuit of the first k edges of a `curve`'s ranking, pruned to whole paths."""
    edges = result["edge"].values[:k].tolist()
    about = {name: result.attrs[name] for name in ("metric", "ablation", "pair", SEEN)}
    return Circuit(edges, result.attrs["inputs"], {"method": "curve", "k": k, **about}).pruned()


@takes("metric", "ablation")
def cpr_cmd(model: HookedModel | nn.Module, pair: Pair, scores: Scores, *, options: Options) -> xr.Dataset:
    """CPR and CMD exactly as MIB defines them.

    At ten fractions x of the edges the int(x |E|) first edges are taken, pruned to whole paths and run. CPR is the
    trapezoid of faithfulness f over x, edges ranked by signed score (higher is better); CMD the trapezoid of |1 - f|,
    ranked by absolute score (lower is better). x runs from 0.001 to 1 and there is no point at 0. Under about 1,000
    edges the first fractions give k = 0 or 1: read `curve` beside it.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        scores: A score for every edge of the model, from other examples than this pair's: those that the attribute
            `seen` of an analysis' result names are left out.
        options: See `Options`; the input convention is that of the scores.

    Returns:
        `cpr`, `cmd`; `faithfulness` (ranking, fraction); `k` (fraction); `size` (ranking, fraction); `m_full`,
        `m_empty`, `gap`, `gap_low`, `gap_high`, `valid`. NaN where `valid` is False.

    Source: Mueller et al. 2025 (MIB), `evaluate_area_under_curve`.
    """
    judge, values = _judged(model, pair, scores, options)
    ks = np.array([int(fraction * len(values)) for fraction in FRACTIONS])
    rankings = [rank_edges(values, by) for by in ("signed", "absolute")]
    circuits = [Circuit(ranked[:k], judge.graph.inputs).pruned() for ranked in rankings for k in ks]
    faithfulness = judge.recovered_shares(circuits).reshape(2, -1)
    result = _base(judge).assign(
        cpr=np.trapezoid(faithfulness[0], FRACTIONS),
        cmd=np.trapezoid(np.abs(1 - faithfulness[1]), FRACTIONS),
        faithfulness=(("ranking", "fraction"), faithfulness),
        size=(("ranking", "fraction"), np.array([len(circuit) for circuit in circuits]).reshape(2, -1)),
        k=("fraction", ks),
    )
    result = result.assign_coords(ranking=["signed", "absolute"], fraction=list(FRACTIONS))
    return result.assign_attrs(_attrs(judge, pair, scores))


def _judged(
    model: HookedModel | nn.Module, pair: Pair, scores: Scores, options: Options
) -> tuple[Judge, dict[Edge, float]]:
    """A judge of held-out examples in the scores' input convention, and a score for every edge of its graph."""
    values = edge_scores(scores)
    rest, _ = held_out(pair, {SEEN: join_names(seen_by(scores))})
    split = any(edge.source.kind in ("embed", "pos") for edge in values)
    judge = Judge(model, rest, options.change(inputs="split" if split else "merged"))
    return judge, score_every_edge(values, judge.graph)


def _base(judge: Judge) -> xr.Dataset:
    gap = judge.gap
    ends = {"gap": gap.mean, "gap_low": gap.low, "gap_high": gap.high, "valid": gap.valid}
    return xr.Dataset({"m_full": judge.full.mean(), "m_empty": judge.nothing.mean(), **ends})


def _attrs(judge: Judge, pair: Pair, scores: Scores) -> dict[str, object]:
    """How it was made; `seen` are the examples of the scores and those of the curve."""
    return {
        **judge.options.attrs("metric", "ablation"),
        "pair": judge.pair.fingerprint,
        "left_out": len(pair) - len(judge.pair),
        SEEN: join_names(example_names(judge.pair), seen_by(scores)),
        "version": __version__,
    }
