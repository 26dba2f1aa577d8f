"""From measured numbers to a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from mechinterp.claims.schema import Claim, Verdict
from mechinterp.core import t_interval

ORDER_SEEDS = 5
"""Fewest models that can decide an order: five of five gives p = 1/32."""
LEVEL, WEAK_LEVEL = 0.05, 0.2


@dataclass(frozen=True)
class Number:
    """One model's number, with its interval over examples (as wide as the number where there is none).

    Args:
        value: NaN where the model has no such number (say, nothing to recover).
        low: Lower end of the 95% interval.
        high: Upper end.
        rows: One value per example, whose mean is `value`; None where there is none.
        reason: Why there is no number.
    """

    value: float
    low: float
    high: float
    rows: np.ndarray | None = field(default=None, compare=False, repr=False)
    reason: str = ""

    @classmethod
    def exact(cls, value: float) -> Number:
        """A number without an interval."""
        return cls(value, value, value)

    @classmethod
    def over_examples(cls, rows: np.ndarray) -> Number:
        """The mean of one value per example, with its t-interval; NaN entries are examples without a value."""
        return cls(float(np.nanmean(rows)), *t_interval(rows), rows) if np.isfinite(rows).any() else cls.exact(math.nan)

    @property
    def bare(self) -> Number:
        """The number without its examples."""
        return Number(self.value, self.low, self.high, reason=self.reason)

    def minus(self, other: Number) -> Number:
        """The difference; example by example where both have one value for each."""
        rows = _paired(self, other)
        if rows is not None:
            return Number.over_examples(rows[0] - rows[1])
        value = self.value - other.value
        low = math.hypot(self.value - self.low, other.high - other.value)
        high = math.hypot(self.high - self.value, other.value - other.low)
        return Number(value, value - low, value + high)

    def over(self, other: Number) -> Number:
        """The ratio of the two means (its interval to first order); NaN where the other's interval contains zero."""
        if not (other.low > 0 or other.high < 0):
            return Number.exact(math.nan)
        ratio = self.value / other.value
        rows = [np.zeros(1) if one.rows is None else one.rows - one.value for one in (self, other)]
        if self.rows is not None and other.rows is not None and _paired(self, other) is None:
            spread = [(one.high - one.low) / 2 for one in (self, other)]
            half = math.hypot(spread[0], ratio * spread[1]) / abs(other.value)
            return Number(ratio, ratio - half, ratio + half)
        found = ratio + (rows[0] - ratio * rows[1]) / other.value
        return Number.exact(ratio) if len(found) == 1 else Number.over_examples(found)


def decide(claim: Claim, numbers: Sequence[Number]) -> tuple[Verdict, Number]:
    """The verdict on a claim, and its number over all models that were measured.

    - *reproduced*: the comparison holds for every model; if there is one only, at both ends of its interval over
      examples.
    - *weaker*: not so, but the mean meets the comparison, or every model meets the claim's `weaker` bound.
    - *not reproduced*: all else, also if a model has no such number.

    An order in time (`after`) is reproduced if a one-sided exact sign test over the models says so (p <= .05; models
    in which neither comes first count against it), weaker if it gives p <= .2; fewer than five models cannot tell.

    Args:
        claim: The claim.
        numbers: One per model.

    Returns:
        Verdict, and the mean with a t-interval over models, or one model's number with its interval over examples.
        Where something never happened in some model, the median, without an interval.
    """
    values = np.array([number.value for number in numbers])
    whole = _over_models(values) if len(values) > 1 else numbers[0]
    if claim.compare == "after":
        return _order(claim, values), whole
    if np.isnan(values).any():
        return "not reproduced", Number.exact(math.nan)
    tested = values.tolist() if len(values) > 1 else [numbers[0].value, numbers[0].low, numbers[0].high]
    if all(meets(claim, value) for value in tested):
        return "reproduced", whole
    weak = claim.weaker is not None and all(meets(claim, number.value, weaker=True) for number in numbers)
    if weak or meets(claim, whole.value):
        return "weaker", whole
    return "not reproduced", whole


def _order(claim: Claim, values: np.ndarray) -> Verdict:
    if len(values) < ORDER_SEEDS:
        return "not testable at this scale"
    wins = int((values > claim.value).sum())
    p = binomtest(wins, len(values), 0.5, alternative="greater").pvalue
    return "reproduced" if p <= LEVEL else "weaker" if p <= WEAK_LEVEL else "not reproduced"


def _paired(one: Number, other: Number) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sides' values, if they are of the same examples, so that they can be compared one by one."""
    if one.rows is None or other.rows is None or len(one.rows) != len(other.rows):
        return None
    same = (np.isfinite(one.rows) == np.isfinite(other.rows)).all()
    return (one.rows, other.rows) if same else None


def _over_models(values: np.ndarray) -> Number:
    if np.isinf(values).any():
        return Number(float(np.median(values)), math.nan, math.nan)
    return Number(float(values.mean()), *t_interval(values))


def meets(claim: Claim, value: float, weaker: bool = False) -> bool:
    """Whether one value meets the comparison, or the weaker bound (to which equality belongs)."""
    bound = claim.weaker if weaker and claim.weaker is not None else claim.value
    if claim.compare == "between":
        assert claim.high is not None
        return claim.value <= value <= claim.high
    if claim.compare == "equals":
        assert claim.within is not None
        return abs(value - claim.value) <= claim.within
    return value <= bound if claim.compare == "<=" else value >= bound
