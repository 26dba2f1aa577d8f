"""The gap that results are shares of, and a ratio of two means, with their intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mechinterp.core import t_interval


class Gap(NamedTuple):
    """What lies between the whole model and the empty circuit, with its t-interval."""

    mean: float
    low: float
    high: float
    valid: bool

    @property
    def unit(self) -> float:
        """What to divide by: the mean, or NaN where it may be zero."""
        return self.mean if self.valid else float("nan")


def gap_between(full: Float[np.ndarray, " example"], empty: Float[np.ndarray, " example"]) -> Gap:
    """Mean difference, its 95% t-interval, and whether it differs from zero.

    Not valid where the interval contains zero, and where the gap is no larger than rounding: two runs that should be
    equal can differ by one unit in the last place in every example, which is a narrow interval around nothing.
    """
    low, high = t_interval(full - empty)
    mean = float((full - empty).mean())
    return Gap(mean, low, high, bool((low > 0 or high < 0) and abs(mean) > rounding(full, empty)))


def rounding(*values: np.ndarray) -> float:
    """Differences up to this are none: a hundred units in the last place of the largest value, in float32."""
    return 100 * float(np.finfo(np.float32).eps) * max(float(np.abs(item).max(initial=0.0)) for item in values)


class Ratio(NamedTuple):
    """A ratio of means: the estimate, its interval, and whether the denominator is known to differ from zero."""

    value: float
    low: float
    high: float
    valid: bool


def ratio_of_means(
    numerator: Float[np.ndarray, " example"], denominator: Float[np.ndarray, " example"], confidence: float = 0.95
) -> Ratio:
    """The mean of one quantity over the mean of another, with Fieller's interval.

    Fieller's interval holds all ratios r for which a t-test does not reject mean(numerator - r * denominator) = 0. It
    is finite exactly when the denominator's t-interval leaves out zero, which is our condition for a ratio to be
    valid: the flag and the interval cannot disagree. Examples are taken as independent draws.

    Args:
        numerator: One value per example.
        denominator: One value per example, the same examples.
        confidence: Level of both intervals.

    Returns:
        value, low, high and valid; the numbers are NaN where the ratio is not valid.

    Source: Fieller 1954, "Some problems in interval estimation".

    >>> ratio_of_means(np.array([1.0, 1.5, 2.0]), np.array([2.0, 3.0, 4.0]))
    Ratio(value=0.5, low=0.5, high=0.5, valid=True)
    """
    from scipy import stats

    above, below = numerator.astype(float), denominator.astype(float)
    low, high = t_interval(below, confidence)
    if not (low > 0 or high < 0):
        return Ratio(np.nan, np.nan, np.nan, False)
    size = above.size
    spread = np.cov(above, below) * stats.t.ppf(0.5 + confidence / 2, size - 1) ** 2 / size
    # Roots of a r^2 - 2 b r + c = 0; a > 0 because the denominator's interval leaves out zero.
    a = below.mean() ** 2 - spread[1, 1]
    b = above.mean() * below.mean() - spread[0, 1]
    c = above.mean() ** 2 - spread[0, 0]
    # Zero for exactly proportional values; rounding may leave it a little below.
    half = np.sqrt(max(b * b - a * c, 0.0))
    value = above.mean() / below.mean()
    return Ratio(float(value), float(min((b - half) / a, value)), float(max((b + half) / a, value)), True)
