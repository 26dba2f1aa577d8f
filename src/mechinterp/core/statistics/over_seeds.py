"""Dates over seeds: their interval, and how many runs still wait where some never got there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.core.statistics.intervals import t_interval
from mechinterp.core.statistics.significance import binomial_limits

FEWEST_SEEDS = 20
"""Runs below which no survival curve and no variance is shown: they would say little but look like a result."""


def too_few(runs: int, what: str) -> str:
    """Why a view over seeds is absent; empty where there are enough runs.

    >>> too_few(5, "a survival curve")
    'a survival curve needs 20 independent runs, and there are 5'
    """
    return "" if runs >= FEWEST_SEEDS else f"{what} needs {FEWEST_SEEDS} independent runs, and there are {runs}"


@dataclass(frozen=True)
class SeedInterval:
    """A step averaged over seeds on a logarithmic scale.

    Args:
        step: Geometric mean.
        low: Lower end of the t-interval on ln t, in steps; 0 for a single seed.
        high: Upper end; infinite for a single seed.
        seeds: How many runs.
        confidence: The interval's level.
    """

    step: float
    low: float
    high: float
    seeds: int
    confidence: float

    def __str__(self) -> str:
        share = f"{100 * self.confidence:.0f}%"
        return f"step {self.step:.0f} ({share} interval {self.low:.0f}-{self.high:.0f}, {self.seeds} seeds)"


def seed_interval(steps: Sequence[float] | np.ndarray, confidence: float = 0.95) -> SeedInterval:
    """t-interval over seeds of an onset or a first passage, on ln t.

    Args:
        steps: One positive step per seed.
        confidence: The interval's level. A percentile bootstrap of five values covers 82%, not 95%, hence t.

    Raises:
        ConfigError: If a run never got there (NaN or infinite): a mean of the others would be too early. Use
            `kaplan_meier`.

    >>> print(seed_interval([225, 250, 275, 250, 240]))
    step 247 (95% interval 226-271, 5 seeds)
    """
    values = np.asarray(steps, dtype=float).ravel()
    if not len(values):
        raise ConfigError("seed_interval needs at least one step")
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise ConfigError(
            f"{missing} of {len(values)} runs never got there, and a mean of the others would be too early: "
            "use kaplan_meier(steps, last), which takes censored runs"
        )
    if (values <= 0).any():
        raise ConfigError("steps must be positive: an interval on ln t has no place for step 0")
    low, high = t_interval(np.log(values), confidence)
    centre = float(np.exp(np.log(values).mean()))
    return SeedInterval(centre, float(np.exp(low)), float(np.exp(high)), len(values), confidence)


def kaplan_meier(
    steps: Sequence[float] | np.ndarray, last: Sequence[float] | np.ndarray | float, confidence: float = 0.95
) -> xr.Dataset:
    """Share of runs in which it has not happened yet, runs that never got there counted for as long as they ran.

    Args:
        steps: First passage of each run, NaN where it never passed.
        last: Last step of each run (or of all): where a run without a passage was censored.
        confidence: Level of the log-log interval; where none or all of the runs wait, which has no log-log, it is
            Clopper and Pearson's of as many runs as are still watched, or as passed.

    Returns:
        By `step`: `waiting` (the survival function after that step), `low`, `high` at that step alone. Attribute
        `median`: the first step at which at most half are waiting; infinite if that never came.

    Raises:
        ConfigError: If no run, or a negative step is given, or `last` does not fit.

    Source: Kaplan & Meier 1958, by `scipy.stats.ecdf`.
    """
    from scipy import stats

    values = np.asarray(steps, dtype=float).ravel()
    ends = np.asarray(last, dtype=float).ravel()
    if not len(values) or len(ends) not in (1, len(values)):
        raise ConfigError(f"{len(values)} runs and {len(ends)} last steps: give one last step per run, or one for all")
    ends = np.broadcast_to(ends, values.shape)
    censored = ~np.isfinite(values)
    if (values[~censored] < 0).any() or not np.isfinite(ends[censored]).all():
        raise ConfigError("steps are non-negative, and a run that never passed needs its last step")
    if censored.all():
        grid = np.unique(ends)
        ones = np.ones(len(grid))
        made = _with_ends(grid, ones, np.full(len(grid), np.nan), ones, ends, 0, confidence)
        return made.assign_attrs(median=np.inf, runs=len(values), censored=len(values), confidence=confidence)
    data = stats.CensoredData(uncensored=values[~censored], right=ends[censored])
    survival = stats.ecdf(data).sf
    with warnings.catch_warnings():
        # It has no log-log where none or all wait; `_with_ends` fills these in.
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        bounds = survival.confidence_interval(confidence, method="log-log")
    low, high = bounds.low.probabilities, bounds.high.probabilities
    watched = np.where(censored, ends, np.inf)
    passed = int((~censored).sum())
    made = _with_ends(survival.quantiles, survival.probabilities, low, high, watched, passed, confidence)
    half = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    median = float(half[0]) if len(half) else np.inf
    return made.assign_attrs(median=median, runs=len(values), censored=int(censored.sum()), confidence=confidence)


def _with_ends(
    steps: np.ndarray,
    waiting: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    watched: np.ndarray,
    passed: int,
    confidence: float,
) -> xr.Dataset:
    """The survival function, its interval completed where all runs wait and where none does.

    Args:
        steps: `[step]`.
        waiting: `[step]`.
        low: `[step]`.
        high: `[step]`.
        watched: Up to which step each run is watched.
        passed: How many runs passed.
        confidence: Level of the interval.
    """
    low, high = low.copy(), high.copy()
    for at in np.flatnonzero(waiting >= 1):
        still = int((watched >= steps[at]).sum())
        low[at], high[at] = binomial_limits(still, still, confidence)
    for at in np.flatnonzero(waiting <= 0):
        low[at], high[at] = binomial_limits(0, passed, confidence)
    data = {"waiting": ("step", waiting), "low": ("step", low), "high": ("step", high)}
    return xr.Dataset(data, coords={"step": steps})
