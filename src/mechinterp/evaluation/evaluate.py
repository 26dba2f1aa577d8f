"""`evaluate`: everything that is asked of one circuit, beside what random circuits of its size give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import OPTIONS, Circuit, ConfigError, Edge, Options, Pair, derive_seed, held_out, takes
from mechinterp.core.statistics import Interval, p_value, t_interval
from mechinterp.evaluation.found import FOUND_LEVEL, found
from mechinterp.evaluation.live import edge_states, live_edges, states_of
from mechinterp.evaluation.minimality import judged_minimality
from mechinterp.evaluation.nulls import rival_circuits
from mechinterp.evaluation.redundancy import judged_redundancy
from mechinterp.interventions import Judge

FEWEST = 4
"""Examples that give an interval."""


@takes("metric", "ablation")
def evaluate(
    model: Any,
    pair: Pair,
    circuit: Circuit,
    *,
    nulls: int = OPTIONS["nulls"].default,
    untrained: int = OPTIONS["untrained"].default,
    subsets: int = 10,
    seed: int = 0,
    live: Iterable[str | Edge] | None = None,
    allow_same: bool = False,
    options: Options,
) -> xr.Dataset:
    """How good a circuit is, on examples that its discovery did not see.

    N is the whole model, C the circuit, 0 the empty circuit, m a metric (higher is better).

    Args:
        model: The model that the circuit was found in.
        pair: Other examples than the circuit was found on; those among them that it was found on are left out.
        circuit: The circuit C.
        nulls: Random circuits to compare with; all there are, where these are fewer.
        untrained: Untrained models to compare with.
        subsets: Random subsets K of C for completeness, each edge in with chance one half.
        seed: Of random circuits and subsets.
        live: Edges that are not identically zero on this pair; by default `live_edges` finds them.
        allow_same: Judge the circuit on all examples, also on those that it was found on.
        options: See `Options`; the input convention is the circuit's.

    Returns:
        A Dataset; m values and changes are in the metric's unit, intervals are at 95%.

        - `m_full`, `m_circuit`, `m_empty`, `m_complement` (example): m(N), m(C), m(0), m(N without C).
        - `gap`, `gap_low`, `gap_high`: mean m(N) - m(0), t-interval; `valid`: whether that leaves out zero.
        - `faithfulness`, `_low`, `_high`: (m(C) - m(0)) / gap, a ratio of means with Fieller's interval over examples.
        - `removal_cost`, `_low`, `_high`: (m(N) - m(N without C)) / gap, likewise.
        - `null_faithfulness` (null), `null_m` (null): random circuits of `live_size` edges, none of which contains this
          one (`rival_circuits`); `null_size` (null) their sizes; `null_faithfulness_p95`; `null_p_value`: the share of
          random circuits, this one counted among them, that recover as much. `null_removal_cost` (null), `_p95`,
          `_p_value`: the same for removing them. Where few edges carry everything, removing almost any circuit breaks
          it, and a large removal cost says little. NaN where there is no other circuit.
        - `m_circuit_without`, `m_full_without` (subset): mean m(C without K), m(N without K); `incompleteness`
          (subset): their absolute difference; `subset_size` (subset).
        - `removal_effect`, `_low`, `_high` (edge): m(C) - m(C without e), the plain effect of removing one edge.
        - `edge_state` (edge): `live`, `idle` or `invisible`: see `edge_states`.
        - `minimality`, `_low`, `_high`, `minimality_removed` (edge): see `minimality`.
        - `part_effect`, `interaction`, `relation`, `group_parts`, ... (part, other_part, group): which heads and MLPs
          of the whole model stand in for each other, need each other or work against each other: see `redundancy`;
          `group_text` (group): in words; `group_inside` (group): how many of a group's parts are in C.
        - `size`, `live_size`: edges of C, and those live and on a path of live edges; `edges`, `live_edges`: the same
          for N; `idle_edges`, `invisible_edges`: edges of N in these states. Edges identically zero on this pair count
          on neither side of the comparison with random circuits.

        - `ability`, `_low`, `_high`, `loss`, `loss_trivial`, `loss_best`, `untrained_loss` (untrained), `loss_p_value`:
          how well the model does the task: see `Ability`; `gap_size`, `untrained_gap_size` (untrained), `gap_p_value`.
          Bounds are one-sided at `level`.

        The attributes `found` (`yes`, `no`, `undecided`) and `found_reason` say whether this is a circuit: see
        `mechinterp.evaluation.found`. Normalised numbers are NaN where `valid` is False. The
        attribute `left_out` is the number of examples left out because the circuit was found on them. The attribute
        `found_with_metric` is there where the circuit was found with another metric than it is judged by.

    Raises:
        ConfigError: If there are fewer than four examples that the circuit was not found on.
        SiteError: If the model lacks an edge of the circuit.

    Source: Wang et al. 2022 (faithfulness, completeness, minimality); Shi et al. 2024 (random circuits).
    """
    pair, left_out = (pair, 0) if allow_same else held_out(pair, circuit.origin)
    if len(pair) < FEWEST:
        rest = f"{len(pair)} examples that the circuit was not found on" if left_out else f"{len(pair)} examples"
        raise ConfigError(f"{rest} give no interval: draw at least four, better a hundred")
    judge = Judge(model, pair, options.change(inputs=circuit.inputs))
    judge.circuit(circuit)
    states = edge_states(model, pair, live=live, options=judge.options)
    if live is None:
        live = live_edges(model, pair, states=states, options=judge.options)
    pool = Circuit(live, circuit.inputs).pruned()
    core = (circuit & pool).pruned()
    rng = np.random.default_rng(derive_seed(seed, "completeness"))
    cuts = [Circuit((e for e in circuit if rng.random() < 0.5), circuit.inputs) for _ in range(subsets)]
    random, exhaustive = rival_circuits(core, judge.graph, pool.edges, nulls, seed)
    less = [Circuit(circuit.edges - {edge}, circuit.inputs) for edge in circuit]
    whole = judge.whole
    without = {"m_circuit_without": [circuit - cut for cut in cuts], "m_full_without": [whole - cut for cut in cuts]}
    # All at once: the engine runs circuits together.
    judge.scores(
        [whole, judge.empty, circuit, whole - circuit, *random, *(whole - one for one in random), *less]
        + [one for group in without.values() for one in group]
    )
    gap = judge.gap
    parts: dict[str, Any] = {
        "m_full": ("example", judge.full),
        "m_circuit": ("example", judge.scores([circuit])[0]),
        "m_empty": ("example", judge.nothing),
        "m_complement": ("example", judge.scores([whole - circuit])[0]),
        "gap": gap.mean,
        "gap_low": gap.low,
        "gap_high": gap.high,
        "valid": gap.valid,
        "size": len(circuit),
        "live_size": len(core),
        "edges": len(judge.graph.edges),
        "live_edges": len(pool),
        "idle_edges": int((states == "idle").sum()),
        "invisible_edges": int((states == "invisible").sum()),
        "null_m": ("null", judge.scores(random).mean(1)),
        "null_size": ("null", np.array([len(one) for one in random], dtype=int)),
        "subset_size": ("subset", np.array([len(cut) for cut in cuts], dtype=int)),
    }
    parts |= _against_nulls("faithfulness", judge.recovered(circuit), judge.recovered_shares(random))
    parts |= _against_nulls("removal_cost", judge.lost(circuit), judge.lost_shares(random))
    means = {name: judge.scores(group).mean(1) for name, group in without.items()}
    parts |= {name: ("subset", values) for name, values in means.items()}
    parts["incompleteness"] = ("subset", np.abs(means["m_circuit_without"] - means["m_full_without"]))
    effects = judge.scores([circuit])[0] - judge.scores(less)
    bounds = np.array([t_interval(row) for row in effects]).reshape(-1, 2)
    parts |= {"removal_effect": ("edge", effects.mean(1)), "edge_state": ("edge", states_of(circuit, states))}
    parts |= {"removal_effect_low": ("edge", bounds[:, 0]), "removal_effect_high": ("edge", bounds[:, 1])}
    outcome = found(judge, circuit, random, exhaustive=exhaustive, untrained=untrained, seed=seed)
    stand_ins = judged_redundancy(judge, whole)
    parts |= {"group_text": ("group", np.array([str(group) for group in stand_ins.groups], dtype=str))}
    inside = [len({*group.parts} & {*circuit.components}) for group in stand_ins.groups]
    parts |= {"group_inside": ("group", np.array(inside, dtype=int))}
    result = xr.Dataset(parts).merge(outcome.data).merge(judged_minimality(judge, circuit)).merge(stand_ins.data)
    found_with = circuit.origin.get("metric", judge.options.metric_name)
    if found_with != judge.options.metric_name:
        result.attrs["found_with_metric"] = found_with
    return result.assign_attrs(
        judge.options.attrs("metric", "ablation"),
        interval="t for means, Fieller for ratios; 95%",
        found=outcome.answer,
        found_reason=outcome.reason,
        level=FOUND_LEVEL,
        seed=seed,
        pair=pair.fingerprint,
        left_out=left_out,
        version=__version__,
    )


def _against_nulls(name: str, share: Interval, null: np.ndarray) -> dict[str, Any]:
    """A share of the gap, what random circuits give, their 95th percentile, and how often they reach the circuit's."""
    return {
        name: share.value,
        f"{name}_low": share.low,
        f"{name}_high": share.high,
        f"null_{name}": ("null", null),
        f"null_{name}_p95": float(np.quantile(null, 0.95)) if len(null) and share.valid else np.nan,
        "null_p_value" if name == "faithfulness" else f"null_{name}_p_value": p_value(share.value, null),
    }
