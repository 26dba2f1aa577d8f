"""Tests with exact p-values: against a null that was drawn, of signs, of an order, and of many claims at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from mechinterp.core.errors import ConfigError


def p_value(value: float, null: Float[np.ndarray, " null"], tie: float = 1e-9) -> float:
    """Share of values, this one counted among them, that are as large: `(1 + #{null >= value}) / (1 + n)`.

    Args:
        value: The value to judge; NaN has no p-value.
        null: Draws of what chance gives.
        tie: Draws below the value by no more than this count as equal to it: a null circuit that is the circuit
            itself gives the same number up to rounding.

    Returns:
        At least 1 / (1 + n); NaN where there is no value or no null.
    """
    if not len(null) or not np.isfinite(value):
        return float("nan")
    return (1 + int((null >= value - tie).sum())) / (len(null) + 1)


@dataclass(frozen=True, eq=False)
class Null:
    """What chance gives for one quantity.

    Args:
        draws: One value per random circuit, untrained model, ...; NaN where that draw has none.
    """

    draws: Float[np.ndarray, " null"]

    @property
    def p95(self) -> float:
        """95th percentile; NaN where there are no draws."""
        return float(np.quantile(self.draws, 0.95)) if len(self.draws) else float("nan")

    @property
    def mean(self) -> float:
        """Mean of the draws."""
        return float(np.mean(self.draws)) if len(self.draws) else float("nan")

    @property
    def largest(self) -> float:
        """The largest draw."""
        return float(np.max(self.draws)) if len(self.draws) else float("nan")

    def p_value(self, value: float) -> float:
        """See `p_value`."""
        return p_value(value, self.draws)


def binomial_test(wins: int, trials: int, chance: float, alternative: str) -> float:
    """Exact p-value for the null that each trial is won with a given chance; NaN without trials.

    Args:
        wins: Trials won.
        trials: Trials.
        chance: The null's chance of a win.
        alternative: `greater`, `less` or `two-sided`.
    """
    from scipy import stats

    return float(stats.binomtest(wins, trials, chance, alternative=alternative).pvalue) if trials else float("nan")


def binomial_limits(wins: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of the chance of a win, from independent trials; (0, 1) without trials.

    Source: Clopper and Pearson 1934.

    >>> [round(end, 4) for end in binomial_limits(0, 300)]
    [0.0, 0.0122]
    """
    from scipy import stats

    if not trials:
        return 0.0, 1.0
    ends = stats.binomtest(wins, trials).proportion_ci(confidence, method="exact")
    return float(ends.low), float(ends.high)


def sign_test(wins: int, losses: int, alternative: Literal["less", "two-sided"] = "less") -> float:
    """Exact p-value for the null that wins and losses are equally likely; 1 where there are neither.

    Args:
        wins: How often it came out as claimed.
        losses: How often the other way.
        alternative: `less` asks whether losses are fewer than wins, a direction declared beforehand.

    >>> sign_test(5, 0), sign_test(5, 0, "two-sided")
    (0.03125, 0.0625)
    """
    return binomial_test(losses, wins + losses, 0.5, alternative) if wins + losses else 1.0


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
    orders: Sequence[str],
    *,
    alternative: Literal["less", "two-sided"] = "two-sided",
    ties: Literal["drop", "against"] = "drop",
) -> OrderTest:
    """Exact sign test over seeds that one measure appears before another.

    Args:
        orders: One word per seed: `first`, `second`, or anything else for a seed without an order (`which_first` gives
            `tie`, `mixed`, `undecided`).
        alternative: `less` only if the direction was declared beforehand: five seeds of five then give p = 0.031;
            `two-sided` needs six for p < 0.05.
        ties: `drop` seeds without an order, or count each `against` the claim (the cautious choice; one-sided only).

    Raises:
        ConfigError: If an option is unknown or has no meaning.

    >>> print(order_test(["first"] * 5, alternative="less"))
    earlier in 5 seeds, later in 0: p = 0.0312 (one-sided sign test)
    """
    if alternative not in ("less", "two-sided") or ties not in ("drop", "against"):
        raise ConfigError("alternative is 'less' or 'two-sided', ties is 'drop' or 'against'")
    if ties == "against" and alternative == "two-sided":
        raise ConfigError("ties='against' needs alternative='less': a two-sided test has no claim to count against")
    wins, losses = (sum(order == side for order in orders) for side in ("first", "second"))
    tied = len(orders) - wins - losses
    p = sign_test(wins, losses + (tied if ties == "against" else 0), alternative)
    return OrderTest(wins, losses, tied, p, alternative, ties)


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


def false_discovery(
    p_values: Float[np.ndarray, " test"], dependence: Literal["positive", "any"] = "any"
) -> Float[np.ndarray, " test"]:
    """p-values adjusted for having looked at many; those up to 0.05 are false in at most 5% on average.

    Args:
        p_values: One per test; NaN where there was none to make, which stays NaN and does not count.
        dependence: `any`: Benjamini & Yekutieli's, right however the tests depend on each other, larger by the factor
            1 + 1/2 + ... + 1/n. `positive`: Benjamini & Hochberg's, for tests that are independent or tend to err
            together.

    Raises:
        ConfigError: If a p-value is not in [0, 1].

    Source: Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001; by `scipy.stats.false_discovery_control`.

    >>> false_discovery(np.array([0.01, 0.04, 0.03, np.nan]), "positive").round(3).tolist()
    [0.03, 0.04, 0.04, nan]
    """
    from scipy import stats

    tests = np.asarray(p_values, dtype=float)
    there = ~np.isnan(tests)
    if not ((tests[there] >= 0) & (tests[there] <= 1)).all():
        raise ConfigError("p-values lie in [0, 1]")
    adjusted = np.full_like(tests, np.nan)
    if there.any():
        method = "bh" if dependence == "positive" else "by"
        adjusted[there] = stats.false_discovery_control(tests[there], method=method)
    return adjusted
