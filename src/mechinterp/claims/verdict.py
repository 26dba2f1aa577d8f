"""From measured numbers to a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mechinterp.claims.schema import Claim, Verdict
from mechinterp.core.statistics import Interval, order_test, t_interval

ORDER_SEEDS = 5
"""Fewest models that can decide an order: five of five gives p = 1/32."""
LEVEL, WEAK_LEVEL = 0.05, 0.2


def decide(claim: Claim, numbers: Sequence[Interval]) -> tuple[Verdict, Interval]:
    """The verdict on a claim, and its number over all models that were measured.

    - *reproduced*: the comparison holds for every model; if there is one only, at both ends of its interval over
      examples.
    - *weaker*: not so, but the mean meets the comparison, or every model meets the claim's `weaker` bound.
    - *not reproduced*: all else, also if a model has no such number.

    An order in time (`after`) is reproduced if a one-sided exact sign test over the models says so (p <= .05; models
    in which neither comes first count against it), weaker if it gives p <= .2; fewer than five models cannot tell, nor
    can models that were watched too short (NaN) if the verdict depends on what they would have shown.

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
        return "not reproduced", Interval.exact(math.nan)
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
    leads = values.tolist()
    worst, best = ([most if math.isnan(one) else one > claim.value for one in leads] for most in (False, True))
    verdict = _sign_test(worst)
    return verdict if verdict == _sign_test(best) else "not testable at this scale"


def _sign_test(first: Sequence[bool]) -> Verdict:
    p = order_test(["first" if one else "tie" for one in first], alternative="less", ties="against").p
    return "reproduced" if p <= LEVEL else "weaker" if p <= WEAK_LEVEL else "not reproduced"


def _over_models(values: np.ndarray) -> Interval:
    if np.isinf(values).any():
        return Interval(float(np.median(values)), math.nan, math.nan)
    return Interval(float(values.mean()), *t_interval(values))


def meets(claim: Claim, value: float, weaker: bool = False) -> bool:
    """Whether one value meets the comparison, or the weaker bound (to which equality belongs)."""
    bound = claim.weaker if weaker and claim.weaker is not None else claim.value
    if claim.compare == "between":
        return claim.value <= value <= (math.nan if claim.high is None else claim.high)
    if claim.compare == "equals":
        return abs(value - claim.value) <= (math.nan if claim.within is None else claim.within)
    return value <= bound if claim.compare == "<=" else value >= bound
