"""Intervals over examples: of a mean, a difference, a ratio of two means, and the gap that effects are shares of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
"""Level of every interval that names no other."""


@dataclass(frozen=True)
class Interval:
    """A number with its interval.

    Args:
        value: The number; NaN where there is none (nothing to recover, say).
        low: Lower end; equal to `value` for a number without an interval.
        high: Upper end.
        rows: One value per example, whose mean is `value`; None where there is none.
        reason: Why there is no number, or why it is not resolved.
        resolved: Whether the examples resolve it; if not, the interval is a bound on one side.
    """

    value: float
    low: float
    high: float
    rows: np.ndarray | None = field(default=None, compare=False, repr=False)
    reason: str = ""
    resolved: bool = True

    @classmethod
    def exact(cls, value: float) -> Interval:
        """A number without an interval."""
        return cls(value, value, value)

    @classmethod
    def missing(cls, reason: str = "") -> Interval:
        """No number, and why."""
        return cls(math.nan, math.nan, math.nan, reason=reason)

    @property
    def valid(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.low, self.high

    @property
    def leaves_out_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0

    @property
    def without_rows(self) -> Interval:
        """The same without the values of the examples."""
        return Interval(self.value, self.low, self.high, reason=self.reason, resolved=self.resolved)

    def minus(self, other: Interval) -> Interval:
        """The difference: example by example where both have one value for each, else as of independent numbers.

        Also as of independent numbers where all examples differ by the same, which shows no spread to judge by.

        Source: for independent numbers, Newcombe 1998, "Interval estimation for the difference between independent
        proportions" (square and add).
        """
        rows = _paired(self, other)
        if rows is not None and np.nanmax(rows[0] - rows[1], initial=-np.inf) > np.nanmin(rows[0] - rows[1]):
            return mean_interval(rows[0] - rows[1])
        value = self.value - other.value
        low = math.hypot(self.value - self.low, other.high - other.value)
        high = math.hypot(self.high - self.value, other.value - other.low)
        return Interval(value, value - low, value + high)

    def over(self, other: Interval) -> Interval:
        """The ratio of the two numbers, its interval to first order; missing where the other may be zero."""
        if not other.leaves_out_zero:
            return Interval.missing()
        ratio = self.value / other.value
        rows = [np.zeros(1) if one.rows is None else one.rows - one.value for one in (self, other)]
        if self.rows is not None and other.rows is not None and _paired(self, other) is None:
            spread = [(one.high - one.low) / 2 for one in (self, other)]
            half = math.hypot(spread[0], ratio * spread[1]) / abs(other.value)
            return Interval(ratio, ratio - half, ratio + half)
        values = ratio + (rows[0] - ratio * rows[1]) / other.value
        return Interval.exact(ratio) if len(values) == 1 else mean_interval(values)


def _paired(one: Interval, other: Interval) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sides' values if they are of the same examples, so that they can be compared one by one."""
    if one.rows is None or other.rows is None or len(one.rows) != len(other.rows):
        return None
    same = (np.isfinite(one.rows) == np.isfinite(other.rows)).all()
    return (one.rows, other.rows) if same else None


def t_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of Student's t-interval of a mean over the flat, finite values; infinite for fewer than two of them.

    >>> [round(x, 2) for x in t_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.48, 4.48]
    """
    flat = np.asarray(values, dtype=float).ravel()
    flat = flat[np.isfinite(flat)]
    if flat.size < 2:
        return (-np.inf, np.inf)
    return _t_ends(flat.mean(), flat.std(ddof=1) / np.sqrt(flat.size), flat.size, confidence)


def mean_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The mean of one value per example with its t-interval; NaN entries are examples without a value."""
    rows = np.asarray(values, dtype=float)
    if not np.isfinite(rows).any():
        return Interval.missing()
    return Interval(float(np.nanmean(rows)), *t_interval(rows, confidence), rows)


def skewed_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The mean of one value per example, with an interval for values that lie far out on one side, such as losses.

    A few examples carry such a mean, and Student's interval, symmetric around it, is too good on the side where they
    lie. Hall's transformation of the t-statistic is a cubic that undoes the skewness; for symmetric values it is
    Student's interval. Not for values that lie far out on both sides, whose skewness few examples do not tell.

    Args:
        values: NaN entries are examples without a value.
        confidence: Level of the interval.

    Source: Hall 1992, "On the removal of skewness by transformation".
    """
    plain = mean_interval(values, confidence)
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    # Rounding of equal values is no skewness.
    if finite.size < 3 or finite.std() <= 1e-12 * np.abs(finite).max():
        return plain
    bend = float((((finite - plain.value) / finite.std()) ** 3).mean()) / np.sqrt(finite.size)
    error = finite.std(ddof=1) / np.sqrt(finite.size)
    low, high = (float(plain.value + error * _unskewed((end - plain.value) / error, bend)) for end in plain.ends)
    return replace(plain, low=low, high=high)


def _unskewed(end: float, bend: float) -> float:
    """Where an end of the t-interval, in standard errors from the mean, lies for skewness `bend * sqrt(n)`."""
    if abs(bend) < 1e-6:
        return end
    return float(3 / bend * (1 - np.cbrt(1 - bend * (end + bend / 6))))


def wilson(share: float, size: float, clusters: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of Wilson's interval of a proportion.

    Args:
        share: The proportion.
        size: How many independent observations it is worth.
        clusters: How many clusters that number was estimated from: Student's quantile takes the normal one's place.
        confidence: Level of the interval.

    Source: Wilson 1927; for clusters, Korn & Graubard 1998 and Dean & Pagano 2015.
    """
    from scipy import stats

    z2 = stats.t.ppf(0.5 + confidence / 2, clusters - 1) ** 2 / size
    middle = (share + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    # Rounding must not put the share outside its own interval at 0 and 1.
    return float(min(max(middle - half, 0.0), share)), float(max(min(middle + half, 1.0), share))


def summary_interval(mean: float, error: float, count: float, confidence: float = CONFIDENCE) -> Interval:
    """A mean with its t-interval, from its standard error and the number of examples.

    >>> [round(x, 2) for x in summary_interval(2.0, 3**-0.5, 3).ends]
    [-0.48, 4.48]
    """
    ends = _t_ends(mean, error, count, confidence) if count > 1 else (-np.inf, np.inf)
    return Interval(float(mean), *ends)


def _t_ends(mean: float, error: float, count: float, confidence: float) -> tuple[float, float]:
    from scipy import stats

    half = stats.t.ppf(0.5 + confidence / 2, count - 1) * error
    return float(mean - half), float(mean + half)


class Gap(NamedTuple):
    """What lies between the whole model and the empty circuit, with its interval."""

    mean: float
    low: float
    high: float
    valid: bool

    @property
    def unit(self) -> float:
        """What to divide by: the mean, or NaN where it may be zero."""
        return self.mean if self.valid else float("nan")


def gap_between(
    full: Float[np.ndarray, " example"], empty: Float[np.ndarray, " example"], confidence: float = CONFIDENCE
) -> Gap:
    """Mean difference, its interval, and whether it differs from zero.

    Not valid where the interval contains zero, and where the gap is no larger than rounding: two runs that should be
    equal can differ by one unit in the last place in every example, which is a narrow interval around nothing.
    """
    low, high = skewed_interval(full - empty, confidence).ends
    mean = float((full - empty).mean())
    return Gap(mean, low, high, bool((low > 0 or high < 0) and abs(mean) > rounding(full, empty)))


def rounding(*values: np.ndarray) -> float:
    """Differences up to this are none: a hundred units in the last place of the largest value, in float32."""
    return 100 * float(np.finfo(np.float32).eps) * max(float(np.abs(item).max(initial=0.0)) for item in values)


def ratio_of_means(
    numerator: Float[np.ndarray, " example"], denominator: Float[np.ndarray, " example"], confidence: float = CONFIDENCE
) -> Interval:
    """The mean of one quantity over the mean of another, with Fieller's interval.

    Fieller's interval holds all ratios r for which a t-test does not reject mean(numerator - r * denominator) = 0. It
    is finite exactly when the denominator's t-interval leaves out zero, which is our condition for a ratio to be
    valid: the flag and the interval cannot disagree. Examples are taken as independent draws.

    Args:
        numerator: One value per example.
        denominator: One value per example, the same examples.
        confidence: Level of both intervals.

    Returns:
        The ratio; missing where the denominator may be zero.

    Source: Fieller 1954, "Some problems in interval estimation".

    >>> ratio_of_means(np.array([1.0, 1.5, 2.0]), np.array([2.0, 3.0, 4.0]))
    Interval(value=0.5, low=0.5, high=0.5, reason='', resolved=True)
    """
    from scipy import stats

    above, below = numerator.astype(float), denominator.astype(float)
    low, high = t_interval(below, confidence)
    if not (low > 0 or high < 0):
        return Interval.missing("the denominator may be zero")
    size = above.size
    spread = np.cov(above, below) * stats.t.ppf(0.5 + confidence / 2, size - 1) ** 2 / size
    # Roots of a r^2 - 2 b r + c = 0; a > 0 because the denominator's interval leaves out zero.
    a = below.mean() ** 2 - spread[1, 1]
    b = above.mean() * below.mean() - spread[0, 1]
    c = above.mean() ** 2 - spread[0, 0]
    # Zero for exactly proportional values; rounding may leave it a little below.
    half = np.sqrt(max(b * b - a * c, 0.0))
    value = above.mean() / below.mean()
    return Interval(float(value), float(min((b - half) / a, value)), float(max((b + half) / a, value)))


def ratio_rows(
    numerator: Float[np.ndarray, " example"], denominator: Float[np.ndarray, " example"]
) -> Float[np.ndarray, " example"]:
    """One value per example, whose mean is the ratio of means and whose spread is the ratio's (first order).

    A table that keeps examples apart can hold a ratio in this form. NaN where the denominator may be zero.
    """
    low, high = t_interval(denominator)
    if low <= 0 <= high:
        return np.full_like(denominator, np.nan)
    ratio = numerator.mean() / denominator.mean()
    return ratio + (numerator - ratio * denominator) / denominator.mean()
