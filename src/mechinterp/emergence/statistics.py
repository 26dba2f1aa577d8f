"""Numbers over seeds: intervals, order tests, censored times, many claims at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from scipy import stats

from mechinterp.core import ConfigError, t_interval
from mechinterp.emergence.passages import Ordering


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


@dataclass(frozen=True)
class OrderTest:
    """An exact sign test of "the first comes before the second" over seeds.

    Args:
        wins: Seeds in which the first was earlier.
        losses: Seeds in which the second was.
        ties: Seeds without an order: same checkpoint, not the same order at all thresholds, or neither passed.
        p: Probability of so lopsided a count if either order were equally likely.
        alternative: `less` (declared beforehand that the first is earlier) or `two-sided`.
        ties_count: `drop` (ties leave the test) or `against` (each tie counts as a loss).
    """

    wins: int
    losses: int
    ties: int
    p: float
    alternative: str
    ties_count: str

    def __str__(self) -> str:
        sided = "one-sided" if self.alternative == "less" else "two-sided"
        tied = f", {self.ties} without an order" if self.ties else ""
        return f"earlier in {self.wins} seeds, later in {self.losses}{tied}: p = {self.p:.3g} ({sided} sign test)"


def order_test(
    first: Sequence[float] | Sequence[Ordering] | np.ndarray,
    second: Sequence[float] | np.ndarray | None = None,
    alternative: Literal["less", "two-sided"] = "two-sided",
    ties: Literal["drop", "against"] = "drop",
) -> OrderTest:
    """Exact sign test over seeds that the first measure appears before the second.

    Args:
        first: One step per seed (NaN: never), or one `Ordering` per seed from `which_first`.
        second: The other measure's step in the same seeds; None with orderings. A run in which only one of them
            happened has an order; one in which neither did has none.
        alternative: `less` only if the direction was declared beforehand: five seeds of five then give p = 0.031;
            `two-sided` needs six for p < 0.05.
        ties: `drop` seeds without an order, or count each `against` the claim (the cautious choice; one-sided only).

    Raises:
        ConfigError: If the two sequences differ in length, or an option is unknown.

    >>> print(order_test([200, 220, 210, 190, 205], [250, 300, 260, 240, 280], alternative="less"))
    earlier in 5 seeds, later in 0: p = 0.0312 (one-sided sign test)
    """
    if alternative not in ("less", "two-sided") or ties not in ("drop", "against"):
        raise ConfigError("alternative is 'less' or 'two-sided', ties is 'drop' or 'against'")
    if ties == "against" and alternative == "two-sided":
        raise ConfigError("ties='against' needs alternative='less': a two-sided test has no claim to count against")
    wins, losses, tied = _count(first, second)
    trials, lost = wins + losses, losses
    if ties == "against":
        trials, lost = trials + tied, lost + tied
    if trials == 0:
        p = 1.0
    elif alternative == "less":
        p = float(stats.binomtest(lost, trials, 0.5, alternative="less").pvalue)
    else:
        p = float(stats.binomtest(lost, trials, 0.5).pvalue)
    return OrderTest(wins, losses, tied, p, alternative, ties)


def _count(first: Sequence | np.ndarray, second: Sequence[float] | np.ndarray | None) -> tuple[int, int, int]:
    orderings = [item for item in first if isinstance(item, Ordering)]
    if orderings and (len(orderings) < len(first) or second is not None):
        raise ConfigError("give either two sequences of steps or one sequence of orderings")
    if orderings:
        wins = sum(item.order == "first" for item in orderings)
        losses = sum(item.order == "second" for item in orderings)
        return wins, losses, len(orderings) - wins - losses
    if second is None or len(second) != len(first):
        other = 0 if second is None else len(second)
        raise ConfigError(f"{len(first)} seeds for the first measure, {other} for the second: pair them")
    a = np.nan_to_num(np.asarray(first, dtype=float), nan=np.inf)
    b = np.nan_to_num(np.asarray(second, dtype=float), nan=np.inf)
    return int((a < b).sum()), int((a > b).sum()), int((a == b).sum())


def kaplan_meier(
    steps: Sequence[float] | np.ndarray, last: Sequence[float] | np.ndarray | float, confidence: float = 0.95
) -> xr.Dataset:
    """Share of runs in which it has not happened yet, runs that never got there counted for as long as they ran.

    Args:
        steps: First passage of each run, NaN where it never passed.
        last: Last step of each run (or of all): where a run without a passage was censored.
        confidence: Level of the log-log interval.

    Returns:
        By `step`: `waiting` (the survival function after that step), `low`, `high`. Attribute `median`: the first
        step at which at most half are waiting; infinite if that never came.

    Raises:
        ConfigError: If no run, or a negative step is given, or `last` does not fit.

    Source: Kaplan & Meier 1958, by `scipy.stats.ecdf`.
    """
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
        blank = {"waiting": ("step", np.ones(len(grid))), "low": ("step", np.full(len(grid), np.nan))}
        made = xr.Dataset({**blank, "high": ("step", np.ones(len(grid)))}, coords={"step": grid})
        return made.assign_attrs(median=np.inf, runs=len(values), censored=len(values), confidence=confidence)
    data = stats.CensoredData(uncensored=values[~censored], right=ends[censored])
    survival = stats.ecdf(data).sf
    bounds = survival.confidence_interval(confidence, method="log-log")
    made = xr.Dataset(
        {
            "waiting": ("step", survival.probabilities),
            "low": ("step", bounds.low.probabilities),
            "high": ("step", bounds.high.probabilities),
        },
        coords={"step": survival.quantiles},
    )
    half = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    median = float(half[0]) if len(half) else np.inf
    return made.assign_attrs(median=median, runs=len(values), censored=int(censored.sum()), confidence=confidence)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values over the claims of one study; compare each with the level as it stands.

    Args:
        p_values: Claim -> p.

    Raises:
        ConfigError: If a p-value is not in [0, 1].

    Source: Holm 1979 (step-down Bonferroni).

    >>> {name: round(p, 3) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    wrong = [name for name, p in p_values.items() if not 0 <= p <= 1]
    if wrong:
        raise ConfigError(f"p-values lie in [0, 1]; not so for {wrong}")
    adjusted: dict[str, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda item: p_values[item])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p_values}
