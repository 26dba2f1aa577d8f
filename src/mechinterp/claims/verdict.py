"""From measured numbers to a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechinterp.claims.schema import Claim, Verdict
from mechinterp.core import t_interval


@dataclass(frozen=True)
class Number:
    """One model's number, with its interval over examples (as wide as the number where there is none).

    Args:
        value: NaN where the model has no such number (say, nothing to recover).
        low: Lower end of the 95% interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Number:
        """A number without an interval."""
        return cls(value, value, value)

    def minus(self, other: Number) -> Number:
        """The difference of two independent numbers; distances to the ends add as squares."""
        value = self.value - other.value
        low = math.hypot(self.value - self.low, other.high - other.value)
        high = math.hypot(self.high - self.value, other.value - other.low)
        return Number(value, value - low, value + high)


def decide(claim: Claim, numbers: Sequence[Number]) -> tuple[Verdict, Number]:
    """The verdict on a claim, and its number over all models that were measured.

    - *reproduced*: the comparison holds for every model; if there is one only, at both ends of its interval over
      examples.
    - *weaker*: not so, but the mean meets the comparison, or every model meets the claim's `weaker` bound.
    - *not reproduced*: all else, also if a model has no such number.

    Args:
        claim: The claim.
        numbers: One per model.

    Returns:
        Verdict, and the mean with a t-interval over models, or one model's number with its interval over examples.
    """
    values = np.array([number.value for number in numbers])
    mean = float(values.mean())
    whole = Number(mean, *t_interval(values)) if len(values) > 1 else numbers[0]
    tested = [number.value for number in numbers]
    if len(numbers) == 1:
        tested += [numbers[0].low, numbers[0].high]
    if np.isnan(values).any():
        return "not reproduced", Number.exact(math.nan)
    if all(meets(claim, value) for value in tested):
        return "reproduced", whole
    weak = claim.weaker is not None and all(meets(claim, number.value, weaker=True) for number in numbers)
    if weak or meets(claim, mean):
        return "weaker", whole
    return "not reproduced", whole


def meets(claim: Claim, value: float, weaker: bool = False) -> bool:
    """Whether one value meets the comparison, or the weaker bound (to which equality belongs)."""
    bound = claim.weaker if weaker and claim.weaker is not None else claim.value
    if claim.compare == "between":
        assert claim.high is not None
        return claim.value <= value <= claim.high
    if claim.compare == "equals":
        assert claim.within is not None
        return abs(value - claim.value) <= claim.within
    if claim.compare == "<=":
        return value <= bound
    return value > bound if claim.compare == "after" and not weaker else value >= bound
