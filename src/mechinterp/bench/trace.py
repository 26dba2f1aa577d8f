"""What a trace costs beside the training that it follows, and whether adaptive steps date as all steps do."""

from __future__ import annotations

import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from mechinterp.bench.timing import Figures
from mechinterp.core import derive_seed
from mechinterp.curves import first_passage
from mechinterp.measures import Measure, measure
from mechinterp.tasks import get
from mechinterp.timeline import Curves, Memory, adaptive_steps, trace
from mechinterp.training import Run, train

EFFECTS = ("edge_effects", "node_effects", "circuit")
SEQUENCES, PAIRS, POSITIONS = 64, 16, 512
_MEANING = "processor time of a trace of 100 checkpoints over that of the training, one thread"
_DATED = {"loss": dict(group="repeat"), "accuracy": dict(group="repeat")}


def trace_costs(quick: bool = False) -> Figures:
    """Train the demo's model with 100 checkpoints, then trace it: all measures, all but effects, and adaptively.

    Args:
        quick: A short training with few checkpoints, to see that it runs.

    Returns:
        `ratio`: of the whole trace over the training. `without_effects`, `adaptive_over_training`: likewise.
        `adaptive_steps`: checkpoints measured, of `checkpoints`. `dates_agree`: share of 200 simulated curves whose
        date (half of the range) differs by no more than one spacing; `demo_dates_agree`: of the demo's loss and
        accuracy. `peak_mb`: memory that the trace adds. `sizes` has each measure's share of the training.
    """
    task = get("induction")
    settings = {"log_checkpoints": 60, "linear_checkpoints": 50} | ({"steps": 40, "warmup": 0} if quick else {})
    measures = _measures(8 if quick else SEQUENCES, 4 if quick else PAIRS)
    cheap = {name: one for name, one in measures.items() if name not in EFFECTS}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = train(task, seed=0, out=Path(folder) / "run", training=settings)
        training = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shares, seconds, full = _timed(run, measures)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        _, light, _ = _timed(run, cheap)
        _, fewer, some = _timed(run, measures, "adaptive")
    rows = [
        {"size": name, "shape": "share of the training", "ratio": spent / training} for name, spent in shares.items()
    ]
    agree = [_agree(full[name].sel(where), some[name].sel(where)) for name, where in _DATED.items()]
    ratio = seconds / training
    return {
        "name": "trace", "ratio": ratio, "low": ratio, "high": ratio, "meaning": _MEANING, "target": 1.0,
        "trace_over_training": ratio, "without_effects": light / training, "adaptive_over_training": fewer / training,
        "checkpoints": full.sizes["step"], "adaptive_steps": some.sizes["step"], "training_seconds": training,
        "demo_dates_agree": float(np.mean(agree)), "dates_agree": float(np.mean(simulated(20 if quick else 200))),
        "peak_mb": peak / 1024, "sizes": rows,
    }  # fmt: skip


def _measures(sequences: int, pairs: int) -> dict[str, Measure]:
    plain = ("head_scores", "loss", "accuracy", "margin", "predictor_distance")
    chosen = {name: measure(name, examples=sequences) for name in plain}
    chosen["ridge_probes"] = measure("ridge_probes", examples=sequences, positions=POSITIONS)
    return chosen | {name: measure(name, examples=pairs) for name in EFFECTS}


def _timed(
    run: Run, measures: Mapping[str, Measure], steps: str | None = None
) -> tuple[dict[str, float], float, xr.Dataset]:
    """Seconds of each measure, of the whole trace, and the timeline."""
    spent: dict[str, float] = defaultdict(float)
    start = last = time.process_time()

    def heard(name: str, done: int, total: int) -> None:
        nonlocal last
        now = time.process_time()
        spent[name] += now - last
        last = now

    timeline = trace(run, measures, steps=steps, progress=heard, store=Memory())
    return dict(spent), time.process_time() - start, timeline


def _agree(full: xr.DataArray, some: xr.DataArray) -> bool:
    """Whether half of the change is passed at the same checkpoint, or at a neighbour."""
    steps = full["step"].values
    dates = [_half(line) for line in (full, some)]
    places = [int(np.searchsorted(steps, date)) for date in dates]
    return abs(places[0] - places[1]) <= 1


def _half(line: xr.DataArray) -> float:
    """The first step from which on a curve lies beyond the middle between its first and its last value; inf if none."""
    passage = first_passage(line, float(line[0]), float(line[-1]), thresholds=(0.5,))
    step = float(passage["step"][0])
    return step if np.isfinite(step) else float("inf")


def simulated(count: int) -> list[bool]:
    """Whether adaptive steps date logistic curves with noise as all steps do: one answer per curve."""
    answers = []
    steps = np.unique(np.geomspace(1, 1200, 100).round().astype(int))
    for number in range(count):
        rng = np.random.default_rng(derive_seed(number, "bench", "trace"))
        middle, width = np.exp(rng.uniform(np.log(20), np.log(600))), np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
        error = rng.choice([0.005, 0.02])
        values = 1 / (1 + np.exp(-(np.log(steps) - np.log(middle)) / width)) + error * rng.standard_normal(len(steps))
        answers.append(_dated_alike(steps, values, error))
    return answers


def _dated_alike(steps: np.ndarray, values: np.ndarray, error: float) -> bool:
    place = {int(step): number for number, step in enumerate(steps)}

    def measured(some: Sequence[int]) -> list[Curves]:
        mean = values[[place[step] for step in some]][:, None]
        return [Curves(mean, np.full_like(mean, error))]

    chosen = adaptive_steps([int(step) for step in steps], measured)
    full = xr.DataArray(values, dims="step", coords={"step": steps})
    return _agree(full, full.sel(step=chosen))
