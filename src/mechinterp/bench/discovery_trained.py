"""Searches for circuits on trained models: how many edges each method needs, and how stable its answer is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from mechinterp.bench.timing import Figures
from mechinterp.claims.retrain import FRESH, trained_groups
from mechinterp.claims.shipped import circuit_names, load_circuit
from mechinterp.core import ConfigError, Options, Pair, derive_seed
from mechinterp.core.progress import Bars
from mechinterp.discovery import discover
from mechinterp.interventions import Judge
from mechinterp.models import Transformer
from mechinterp.tasks import Task

_SHARE = 0.95
"""Of the gap, that a circuit is to recover on the pairs that it is searched on."""
_PAIRS, _SEEDS, _LOOKS = 64, 5, 3
_LIMIT = 100_000
SEARCHES: Mapping[str, Mapping[str, object]] = {
    "top-k": {},
    "eap": {"method": "eap"},
    "eap-ig": {"method": "eap-ig"},
    "clean-corrupted": {"method": "clean-corrupted"},
    "acdc": {"method": "acdc"},
    "greedy": {"method": "greedy"},
    "greedy, two-sided": {"method": "greedy", "two_sided": True},
    "greedy-swaps": {"method": "greedy-swaps"},
    "edge-pruning": {"method": "edge-pruning"},
    "information-flow": {"method": "information-flow"},
    "random": {"method": "random"},
    "smallest": {"method": "smallest", "limit": _LIMIT},
}


def trained_discovery(folder: Path, quick: bool = False) -> Figures:
    """Every search on the main model of every shipped circuit, trained again from fresh seeds.

    Args:
        folder: Of the Runs, which are trained where they are missing.
        quick: One model of one circuit, to see that it runs.

    Returns:
        A row for each circuit and method: `edges`, mean over models and over three draws of pairs to search on;
        `held_out` and `held_out_low`: what they recover of the gap on other pairs, mean and least; `stability`: mean
        Jaccard index of the circuits of one model on different draws; `failed`: searches that reached no circuit;
        `search_seconds`: processor time of one. `smallest` is the optimum, where it can be reached.
    """
    circuits = [load_circuit(name) for name in (["regression"] if quick else circuit_names())]
    mains = {one.name: [one.main] for one in circuits}
    seeds = {one.name: range(FRESH, FRESH + (1 if quick else _SEEDS)) for one in circuits}
    with Bars(True) as show:
        groups = trained_groups(circuits, mains, seeds, folder, None, show)
    rows: list[Figures] = []
    for circuit in circuits:
        models = [group[circuit.main] for group in groups[circuit.name]]
        subjects = [(one.final, one.task) for one in models]
        rows += [_row(circuit.name, name, subjects) for name in SEARCHES]
    sizes = [row["edges"] for row in rows if row["edges"] is not None]
    return {
        "name": "discovery on trained models",
        "ratio": float(np.median(sizes)),
        "low": min(sizes),
        "high": max(sizes),
        "meaning": f"edges that recover {_SHARE:.0%} of the gap, median over circuits and methods",
        "target": None,
        "sizes": rows,
    }


def _row(circuit: str, search: str, subjects: Sequence[tuple[Transformer, Task]]) -> Figures:
    sizes, shares, stability, seconds, failed = [], [], [], [], 0
    for model, task in subjects:
        found = []
        judge = Judge(model, _pair(task, "held out"), Options())
        for look in range(_LOOKS):
            begin = time.process_time()
            try:
                one = discover(model, _pair(task, "search", look), share=_SHARE, **SEARCHES[search])
            except ConfigError:
                failed += 1
                continue
            seconds.append(time.process_time() - begin)
            found.append(one)
            sizes.append(len(one))
            shares.append(float(judge.recovered_shares([one])[0]))
        stability += [one.jaccard(other) for one, other in combinations(found, 2)]
    return {
        "size": circuit,
        "shape": search,
        "edges": _mean(sizes),
        "held_out": _mean(shares),
        "held_out_low": min(shares, default=None),
        "stability": _mean(stability),
        "failed": failed,
        "search_seconds": _mean(seconds),
    }


def _pair(task: Task, *use: str | int) -> Pair:
    return task.pair(_PAIRS, derive_seed(0, "bench", "discovery", *use))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
