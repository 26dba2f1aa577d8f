"""Which interval a mean over examples has, by the kind of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mechinterp.core.statistics.intervals import CONFIDENCE, Interval, mean_interval, skewed_interval, wilson

FAILURES, EFFECTIVE = 5, 20
"""Fewest failures, and fewest examples in effect, that resolve a number near its bound."""


@dataclass(frozen=True)
class Kind:
    """What the values of a quantity are like, example by example; the interval of their mean follows from it.

    Args:
        name: `proportion`: shares of right answers, in [0, 1]. `bounded`: other values in [0, 1], such as attention.
            `heavy-tailed`: at least 0 and mostly near it, such as losses. `mean`: none of these.
        failure: For `heavy-tailed`: what one wrong answer adds to an example's value.
    """

    name: Literal["proportion", "bounded", "heavy-tailed", "mean"] = "mean"
    failure: float = 1.0

    @classmethod
    def of(cls, attrs: Mapping[Any, Any]) -> Kind:
        """The kind that a measure declares in the attributes `kind` and `failure` of its result; `mean` by default."""
        return cls(attrs.get("kind", "mean"), float(attrs.get("failure", 1.0)))

    def interval(self, values: Float[np.ndarray, " example"], confidence: float = CONFIDENCE) -> Interval:
        """The mean over examples, the independent unit, with an interval that covers it.

        - `proportion`: Wilson's at the effective number of observations, that is what independent answers would need
          for the variance between examples; the number of examples where they do not vary.
        - `bounded`, `heavy-tailed`: `skewed_interval`.
        - `mean`: `mean_interval`.

        Near a bound few examples decide. The mean is *not resolved* if

        - a proportion has fewer than 5 failures (or, near 0, hits) in effect;
        - other values lie at their bound but for fewer than 20 examples in effect, (sum x)^2 / sum x^2 of their
          distances x from it, or do not vary at all;
        - wrong answers that no example shows, at most 3 in n at level 95%, could outweigh the interval of a
          `heavy-tailed` mean.

        Then the interval is a bound on one side: it holds the bound of the values, and room for what was not seen.

        Args:
            values: NaN entries are examples without a value.
            confidence: Level of the interval.
        """
        plain = mean_interval(values, confidence)
        rows = np.asarray(values, dtype=float)
        finite = rows[np.isfinite(rows)]
        if self.name == "mean" or not finite.size:
            return plain
        if self.name == "proportion":
            return _proportion(plain, finite, confidence)
        plain = skewed_interval(values, confidence)
        upper = self.name == "bounded" and plain.value > 0.5
        distance = 1 - finite if upper else finite
        effective = float(distance.sum() ** 2 / max((distance**2).sum(), 1e-300))
        unseen = (1.0 if self.name == "bounded" else self.failure) * 3 / finite.size
        half = (plain.high - plain.low) / 2
        # Values without spread, up to rounding, show nothing of how they vary.
        outweighed = half < (unseen if self.name == "heavy-tailed" else 1e-12)
        low, high = max(plain.low, 0.0), min(plain.high, 1.0 if self.name == "bounded" else np.inf)
        if effective >= EFFECTIVE and not outweighed:
            return replace(plain, low=low, high=high)
        low, high = (max(low - unseen, 0.0), 1.0) if upper else (0.0, high + unseen)
        return _unresolved(plain, low, high if self.name != "bounded" else min(high, 1.0), finite.size)


def _proportion(plain: Interval, shares: np.ndarray, confidence: float) -> Interval:
    share, count = plain.value, shares.size
    if count < 2:
        return _unresolved(plain, 0.0, 1.0, count)
    variance = shares.var(ddof=1) / count
    size = share * (1 - share) / variance if variance > 0 else count
    low, high = wilson(share, size, count, confidence)
    if size * min(share, 1 - share) >= FAILURES:
        return replace(plain, low=low, high=high)
    return _unresolved(plain, *((low, 1.0) if share > 0.5 else (0.0, high)), count)


def _unresolved(plain: Interval, low: float, high: float, count: int) -> Interval:
    return replace(plain, low=low, high=high, resolved=False, reason=f"not resolved by {count} examples")
