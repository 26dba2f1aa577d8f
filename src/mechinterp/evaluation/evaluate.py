"""`evaluate`: everything that is asked of one circuit, beside what random circuits of its size give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import Circuit, ConfigError, Edge, Metric, Pair, derive_seed, resolve_metric
from mechinterp.core.statistics import Interval, gap_between, p_value, ratio_of_means, t_interval
from mechinterp.evaluation.live import live_edges
from mechinterp.evaluation.minimality import minimality
from mechinterp.evaluation.nulls import random_circuits
from mechinterp.evaluation.scoring import scorer
from mechinterp.interventions import Ablation, graph_of


def evaluate(
    circuit: Circuit,
    model: Any,
    pair: Pair,
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
    nulls: int = 100,
    subsets: int = 10,
    seed: int = 0,
    live: Iterable[str | Edge] | None = None,
    allow_same: bool = False,
) -> xr.Dataset:
    """How good a circuit is, on examples that its discovery did not see.

    N is the whole model, C the circuit, 0 the empty circuit, m a metric (higher is better).

    Args:
        circuit: The circuit C.
        model: The model it was found in.
        pair: Other examples than the circuit was found on.
        metric: m, a name or a function.
        ablation: What absent edges carry: `resample`, `mean`, `mean-pos` or `zero`.
        nulls: Random circuits to compare with.
        subsets: Random subsets K of C for completeness, each edge in with chance one half.
        seed: Of random circuits and subsets.
        live: Edges that are not identically zero on this pair; by default `live_edges` finds them.
        allow_same: Judge the circuit even on the pair that it was found on.

    Returns:
        A Dataset; m values and changes are in the metric's unit, intervals are at 95%.

        - `m_full`, `m_circuit`, `m_empty`, `m_complement` (example): m(N), m(C), m(0), m(N without C).
        - `gap`, `gap_low`, `gap_high`: mean m(N) - m(0), t-interval; `valid`: whether that leaves out zero.
        - `faithfulness`, `_low`, `_high`: (m(C) - m(0)) / gap, a ratio of means with Fieller's interval over examples.
        - `removal_cost`, `_low`, `_high`: (m(N) - m(N without C)) / gap, likewise.
        - `null_faithfulness` (null), `null_m` (null): random circuits of `live_size` edges; `null_size` (null) their
          sizes; `null_faithfulness_p95`; `null_p_value`: the share of random circuits, this one counted among them,
          that recover as much. `null_removal_cost` (null), `_p95`, `_p_value`: the same for removing them. Where few
          edges carry everything, removing almost any circuit breaks it, and a large removal cost says little.
        - `m_circuit_without`, `m_full_without` (subset): mean m(C without K), m(N without K); `incompleteness`
          (subset): their absolute difference; `subset_size` (subset).
        - `removal_effect`, `_low`, `_high` (edge): m(C) - m(C without e), the plain effect of removing one edge.
        - `minimality`, `_low`, `_high`, `minimality_removed` (edge): see `minimality`.
        - `size`, `live_size`: edges of C, and those live and on a path of live edges; `edges`, `live_edges`: the same
          for N. Edges identically zero on this pair count on neither side of the comparison with random circuits.

        Normalised numbers are NaN where `valid` is False.

    Raises:
        ConfigError: If the circuit was found on this very pair, or there are fewer than four examples.
        SiteError: If the model lacks an edge of the circuit.

    Source: Wang et al. 2022 (faithfulness, completeness, minimality); Shi et al. 2024 (random circuits).
    """
    if circuit.origin.get("pair") == pair.fingerprint and not allow_same:
        raise ConfigError(
            "this circuit was found on this very pair: draw another (task.pair(seed=...)), or say allow_same=True"
        )
    if len(pair) < 4:
        raise ConfigError(f"{len(pair)} examples give no interval: draw at least four, better a hundred")
    graph = graph_of(model, circuit.inputs)
    for edge in circuit:
        graph.check(edge)
    if live is None:
        live = live_edges(model, pair, metric, ablation, circuit.inputs)
    pool = Circuit(live, circuit.inputs).pruned()
    core = (circuit & pool).pruned()
    rng = np.random.default_rng(derive_seed(seed, "completeness"))
    cuts = [Circuit((e for e in circuit if rng.random() < 0.5), circuit.inputs) for _ in range(subsets)]
    whole, empty = Circuit(graph.edges, circuit.inputs), Circuit([], circuit.inputs)
    drawn = random_circuits(graph, len(core), pool.edges, nulls, seed)

    m = _scored(
        scorer(model, pair, metric, ablation),
        whole=[whole],
        empty=[empty],
        circuit=[circuit],
        complement=[whole - circuit],
        null=drawn,
        null_complement=[whole - item for item in drawn],
        circuit_without=[circuit - cut for cut in cuts],
        whole_without=[whole - cut for cut in cuts],
        edge_out=[Circuit(circuit.edges - {edge}, circuit.inputs) for edge in circuit],
    )
    gap = gap_between(m["whole"][0], m["empty"][0])
    parts = {
        "m_full": ("example", m["whole"][0]),
        "m_circuit": ("example", m["circuit"][0]),
        "m_empty": ("example", m["empty"][0]),
        "m_complement": ("example", m["complement"][0]),
        "gap": gap.mean,
        "gap_low": gap.low,
        "gap_high": gap.high,
        "valid": gap.valid,
        "size": len(circuit),
        "live_size": len(core),
        "edges": len(graph.edges),
        "live_edges": len(pool),
    }
    whole_gap = m["whole"][0] - m["empty"][0]
    parts |= _ratio("faithfulness", m["circuit"][0] - m["empty"][0], whole_gap, gap.valid)
    parts |= _ratio("removal_cost", m["whole"][0] - m["complement"][0], whole_gap, gap.valid)
    recovered = (m["null"].mean(1) - m["empty"][0].mean()) / gap.unit
    lost = (m["whole"][0].mean() - m["null_complement"].mean(1)) / gap.unit
    parts |= {"null_m": ("null", m["null"].mean(1))}
    parts |= _against_nulls("faithfulness", recovered, float(parts["faithfulness"]))
    parts |= _against_nulls("removal_cost", lost, float(parts["removal_cost"]))
    parts["null_size"] = ("null", np.array([len(item) for item in drawn], dtype=int))
    for name in ("circuit_without", "whole_without"):
        parts[f"m_{name.replace('whole', 'full')}"] = ("subset", m[name].mean(1))
    parts["incompleteness"] = ("subset", np.abs(m["circuit_without"].mean(1) - m["whole_without"].mean(1)))
    parts["subset_size"] = ("subset", np.array([len(cut) for cut in cuts], dtype=int))
    plain = m["circuit"] - m["edge_out"]
    bounds = np.array([t_interval(row) for row in plain]).reshape(-1, 2)
    parts |= {"removal_effect": ("edge", plain.mean(1))}
    parts |= {"removal_effect_low": ("edge", bounds[:, 0]), "removal_effect_high": ("edge", bounds[:, 1])}
    halves = (scorer(model, pair[start::2], metric, ablation) for start in (0, 1))
    result = xr.Dataset(parts).merge(minimality(circuit, plain, *halves))
    return result.assign_attrs(
        metric=resolve_metric(metric)[0],
        ablation=ablation,
        interval="t for means, Fieller for ratios; 95%",
        seed=seed,
        pair=pair.fingerprint,
        version=__version__,
    )


def _scored(score: Any, **groups: list[Circuit]) -> dict[str, np.ndarray]:
    """All groups of circuits in one call, `[circuit, example]` each."""
    values = score([circuit for group in groups.values() for circuit in group])
    ends = np.cumsum([len(group) for group in groups.values()])
    return dict(zip(groups, np.split(values, ends[:-1]), strict=True))


def _ratio(name: str, numerator: np.ndarray, gap: np.ndarray, valid: bool) -> dict[str, float]:
    share = ratio_of_means(numerator, gap) if valid else Interval.missing()
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}


def _against_nulls(name: str, null: np.ndarray, value: float) -> dict[str, Any]:
    """What random circuits give, their 95th percentile, and how often they reach the circuit's value."""
    p95 = float(np.quantile(null, 0.95)) if len(null) and np.isfinite(value) else np.nan
    return {
        f"null_{name}": ("null", null),
        f"null_{name}_p95": p95,
        "null_p_value" if name == "faithfulness" else f"null_{name}_p_value": p_value(value, null),
    }
