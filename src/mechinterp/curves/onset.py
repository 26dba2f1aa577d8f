"""When did a measure appear, was it a transition at all, in how many stages, and did it stay?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechinterp.core import ConfigError, ShapeError
from mechinterp.curves.result import Onset
from mechinterp.curves.verdict import judged


def onset(
    series: xr.DataArray,
    max_width: float = 0.25,
    min_jump: float = 0.1,
    evidence: float = 3.0,
    min_side: int = 3,
    confidence: float = 0.95,
) -> Onset:
    """Date a measure's appearance, if it deserves to be called a transition, and say how often it changes.

    The series is explained by sums of none to three changes: lines, power laws and relaxations, also such as begin
    after a rest, and logistics in ln t. Noise is autocorrelated from checkpoint to checkpoint. A change is sudden if it
    takes as little time in ln t as a logistic of `max_width`, whichever formula describes it best. There is a
    transition if curves with a sudden change that is large enough are more likely than all curves without, by
    `evidence`; the stages are those of the most likely curve. t0 is half of a change and only describes: use
    `first_passage` to say which of two measures came first.

    How often that is right on simulated curves is measured by `mechinterp bench onset`, and written down in the docs
    on benchmarks. A measure that wanders by more than a tenth of its range is beyond what was calibrated.

    Args:
        series: One value per checkpoint, dimension `step`. NaN and infinite values are left out. Step 0 has no
            logarithm: it stays out of the fits and is the untrained value that changes are measured against.
        max_width: Widest w that still is a transition, in ln t.
        min_jump: Least change of a transition, and least distance of what it leads to from the untrained value, in
            the measure's unit.
        evidence: By how much curves with a transition must beat all curves without, in -2 ln marginal likelihood.
            Chosen on simulated curves.
        min_side: Checkpoints (step 0 included) that must lie on either side of t0: one odd last value is no
            transition.
        confidence: Level of t0's interval.

    Returns:
        Verdict, reason, shape in words, stages with dates and intervals, and of the main stage t0 with its interval
        (it knows that a change between two checkpoints has no better date than those two), width and levels.

    Raises:
        ShapeError: If the series has another dimension than `step`.
        ConfigError: If steps repeat, decrease or are negative, or a limit is out of range.

    Source: Schaeffer et al. 2023 for the need of rivals. Differs: rivals that begin after a rest, several stages, and
    noise that wanders.
    """
    _check_limits(max_width, min_jump, min_side, confidence)
    limits = {"max_width": max_width, "min_jump": min_jump, "evidence": evidence, "min_side": min_side}
    steps, values = finite_series(series)
    return judged(steps, values, limits, confidence)


def finite_series(series: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the value is finite, checked.

    Raises:
        ShapeError: If the series has another dimension than `step`, or no step coordinate.
        ConfigError: If steps repeat, decrease or are negative.
    """
    if series.dims != ("step",) or "step" not in series.coords:
        extra = [str(name) for name in series.dims if name != "step"]
        hint = f"select one entry of {extra} first, for example .sel({extra[0]}=...)" if extra else "label its steps"
        raise ShapeError(f"a series has the one dimension 'step' with its coordinate, got {list(series.dims)}: {hint}")
    steps, values = series["step"].values.astype(float), series.values.astype(float)
    if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
        raise ConfigError("steps must be non-negative and increase from checkpoint to checkpoint")
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def _check_limits(max_width: float, min_jump: float, min_side: int, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} is no level: use a number between 0 and 1, such as 0.95")
    if max_width <= 0 or min_jump < 0 or min_side < 1:
        raise ConfigError("max_width must be positive, min_jump at least 0 and min_side at least 1")
