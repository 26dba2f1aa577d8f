"""By how much a date moves from one kind of training to another, over pairs of runs that differ in nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core.errors import ConfigError
from mechinterp.core.statistics import CONFIDENCE, OrderTest, order_test, t_interval

Expected = Literal["earlier", "later"]
_Dates = Float[np.ndarray, " pair"]


@dataclass(frozen=True, eq=False)
class Shift:
    """ln(t_changed / t_plain) of one date over pairs: below 0 is earlier.

    Args:
        ratio: Geometric mean of t_changed / t_plain over complete pairs; NaN where there are none.
        low: Lower end of the t-interval on the logarithm, as a ratio.
        high: Upper end.
        complete: Pairs in which both came; ratio and interval are over these alone.
        pairs: All pairs.
        least: What the geometric mean over all pairs is at least: a date that did not come lies after the last step up
            to which it surely had not. 0 where nothing bounds it.
        most: What it is at most; infinite where nothing bounds it.
        test: The sign test over all pairs whose order is known, censored ones among them.
        bounds: By `end` (`least`, `most`) and pair: what each pair's logarithm is at least and at most.
        confidence: The interval's level.
    """

    ratio: float
    low: float
    high: float
    complete: int
    pairs: int
    least: float
    most: float
    test: OrderTest
    bounds: xr.DataArray
    confidence: float

    def __str__(self) -> str:
        if self.complete:
            share = f"{100 * self.confidence:.0f}%"
            text = f"x{self.ratio:.3g} ({share} interval {self.low:.3g}-{self.high:.3g}, {self.complete} of "
            text += f"{self.pairs} pairs)"
        else:
            text = f"no pair of {self.pairs} in which both came"
        if self.complete < self.pairs:
            text += f"; over all pairs x{self.least:.3g} or more" if self.least > 0 else ""
            text += f"; over all pairs x{self.most:.3g} or less" if self.most < math.inf else ""
        return f"{text}; {self.test}"


def paired_shift(
    plain: xr.Dataset, changed: xr.Dataset, expect: Expected | None = None, confidence: float = CONFIDENCE
) -> Shift:
    """The shift of one date from plain to changed runs, in pairs.

    Args:
        plain: By `pair`: `step`, when it came (NaN where it had not by the end), and `clear`, the last step up to which
            it surely had not come: what `first_passage` returns at one threshold.
        changed: Likewise, for the twins in the same order.
        expect: What was declared beforehand, which makes the sign test one-sided; None makes it two-sided.
        confidence: Of the interval.

    Raises:
        ConfigError: If the numbers of pairs differ, or there are none.

    >>> came = xr.Dataset({"step": ("pair", [200.0, 300.0, 250.0]), "clear": ("pair", [190.0, 290.0, 240.0])})
    >>> sooner = xr.Dataset({"step": ("pair", [100.0, 140.0, np.nan]), "clear": ("pair", [90.0, 130.0, 500.0])})
    >>> shift = paired_shift(came, sooner)
    >>> f"x{shift.ratio:.2f}, {shift.complete} of {shift.pairs} pairs; x{shift.least:.2f} or more; {shift.test}"
    'x0.48, 2 of 3 pairs; x0.78 or more; earlier in 2 seeds, later in 1: p = 1 (two-sided sign test)'
    """
    if plain.sizes["pair"] != changed.sizes["pair"] or not plain.sizes["pair"]:
        raise ConfigError(f"{plain.sizes['pair']} plain runs, {changed.sizes['pair']} changed ones: pair them")
    (plain_low, plain_high), (low, high) = _logarithms(plain), _logarithms(changed)
    # A date that came is a step; one that did not lies between the step after `clear` and infinity.
    least, most = low - plain_high, high - plain_low
    complete = np.isfinite(least) & np.isfinite(most)
    words = [_order(*ends) for ends in zip(least, most, strict=True)]
    alternative = "two-sided" if expect is None else "less"
    if expect == "later":
        words = [{"first": "second", "second": "first"}.get(word, word) for word in words]
    test = order_test(words, alternative=alternative)
    if expect == "later":
        test = OrderTest(test.losses, test.wins, test.ties, test.p, test.alternative, test.ties_count)
    mean, ends = _interval(plain, changed, complete, confidence)
    return Shift(
        *(float(np.exp(value)) for value in (mean, *ends)),
        complete=int(complete.sum()),
        pairs=len(complete),
        least=float(np.exp(least.mean())),
        most=float(np.exp(most.mean())),
        test=test,
        bounds=xr.DataArray(np.stack([least, most]), dims=("end", "pair"), coords={"end": ["least", "most"]}),
        confidence=confidence,
    )


def _logarithms(dates: xr.Dataset) -> tuple[_Dates, _Dates]:
    """Ln of the earliest and of the latest step that each date can have; steps 0 and 1 count as one."""
    step, clear = dates["step"].values, dates["clear"].values
    came = np.log(np.maximum(step, 1))
    return np.where(np.isnan(step), np.log(np.maximum(clear + 1, 1)), came), np.where(np.isnan(step), np.inf, came)


def _order(least: float, most: float) -> str:
    if most < 0:
        return "first"
    if least > 0:
        return "second"
    return "tie" if least == most == 0 else "undecided"


def _interval(
    plain: xr.Dataset, changed: xr.Dataset, complete: np.ndarray, confidence: float
) -> tuple[float, tuple[float, float]]:
    """Mean and interval of the logarithms over complete pairs."""
    if not complete.any():
        return math.nan, (math.nan, math.nan)
    came = [np.log(np.maximum(one["step"].values[complete], 1)) for one in (changed, plain)]
    shifts = came[0] - came[1]
    if np.ptp(shifts) > 0 or len(shifts) == 1:
        low, high = t_interval(shifts, confidence)
        return float(shifts.mean()), (float(low), float(high))
    # Equal shifts are no certainty: each date lies somewhere between two checkpoints.
    before = [np.log(np.maximum(one["clear"].values[complete] + 1, 1)) for one in (changed, plain)]
    return float(shifts.mean()), (float((before[0] - came[1]).mean()), float((came[0] - before[1]).mean()))
