"""When did a measure first pass declared thresholds, and which of two measures passed them first?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.curves.onset import finite_series

Order = Literal["first", "second", "tie", "mixed", "censored"]
THRESHOLDS = (0.1, 0.25, 0.5)


def first_passage(
    series: xr.DataArray,
    chance: float,
    best: float,
    thresholds: Sequence[float] = THRESHOLDS,
    hold: int = 2,
) -> xr.Dataset:
    """First checkpoint at which the excess over chance passes each threshold, and stays.

    Thresholds are shares of the measure's own range, from what chance gives to the best it can be, and are declared
    before the measurement. A share of the *observed* change would make a measure that a short run cuts off look early.

    Args:
        series: One value per checkpoint, dimension `step`; NaN is left out.
        chance: What the measure is without the thing measured.
        best: What it is at its best; below `chance` for measures that fall, such as a loss.
        thresholds: Shares of that range, in (0, 1].
        hold: Consecutive checkpoints, the first included, that must be past the threshold; one dip undoes a passage.

    Returns:
        By `threshold`: `step`, the first step past it (NaN where censored); `after`, the checkpoint before (the
        passage lies between `after` and `step`; NaN if already past at the first checkpoint); `censored`, bool: never
        passed, or not held; `last`, the last step of the series.

    Raises:
        ConfigError: If the range is empty or a threshold or `hold` is out of range.
    """
    if not np.isfinite([chance, best]).all() or chance == best:
        raise ConfigError(f"the range from chance={chance} to best={best} is empty: give two different finite values")
    if not thresholds or not all(0 < item <= 1 for item in thresholds):
        raise ConfigError(f"thresholds are shares of the range in (0, 1], got {list(thresholds)}")
    if hold < 1:
        raise ConfigError(f"hold={hold}: at least one checkpoint must be past the threshold")
    steps, values = finite_series(series)
    excess = (values - chance) / (best - chance)
    passed, before = np.full((2, len(thresholds)), np.nan)
    for row, threshold in enumerate(thresholds):
        past = excess >= threshold
        held = np.array([past[i : i + hold].all() and i + hold <= len(past) for i in range(len(past))], dtype=bool)
        if held.any():
            index = int(held.argmax())
            passed[row] = steps[index]
            before[row] = steps[index - 1] if index else np.nan
    parts = {"step": passed, "after": before, "censored": np.isnan(passed)}
    passages = xr.Dataset(
        {name: ("threshold", value) for name, value in parts.items()}, coords={"threshold": list(thresholds)}
    )
    passages["last"] = steps[-1] if len(steps) else np.nan
    return passages.assign_attrs(chance=float(chance), best=float(best), hold=hold)


def leads(first: xr.Dataset, second: xr.Dataset, *, relative: bool = False, latest: float = np.inf) -> xr.DataArray:
    """By how many steps the first measure passes before the second, at each threshold.

    Args:
        first: The result of `first_passage` for one measure.
        second: The result for the other, with as many thresholds; they may be others, as in the time from 25% to 75%.
        relative: Return how many times as many steps the second takes instead.
        latest: Step that stands for a passage of the second that never came. The default, infinity, is right for an
            order; with the last step, a lead is the least that it can be.

    Returns:
        By `threshold` of the first; negative where the second is earlier, infinite where only one passes, NaN where
        neither does.

    Raises:
        ConfigError: If the numbers of thresholds differ.
    """
    if first.sizes["threshold"] != second.sizes["threshold"]:
        raise ConfigError("the two measures have different numbers of thresholds: give each as many as the other")
    early, late = (passage["step"].fillna(np.inf).values for passage in (first, second))
    late = np.minimum(late, latest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return first["step"].copy(data=late / early if relative else late - early)


@dataclass(frozen=True)
class Ordering:
    """Which of two measures came first in one run.

    Args:
        order: `first` or `second` if that one was earlier at every threshold; `tie` if they passed at the same
            checkpoint at every threshold; `censored` if neither ever passed at some threshold; else `mixed`.
        by_threshold: The order at each threshold.
    """

    order: Order
    by_threshold: dict[float, Order]

    def __str__(self) -> str:
        parts = ", ".join(f"{name:g}: {order}" for name, order in self.by_threshold.items())
        return f"{self.order} ({parts})"


def which_first(first: xr.Dataset, second: xr.Dataset) -> Ordering:
    """The order of two measures of one run; it counts only if it holds at every threshold.

    Args:
        first: The result of `first_passage` for one measure.
        second: The result for the other, with the same thresholds. One that passed is earlier than one that never did.

    Raises:
        ConfigError: If thresholds differ.
    """
    if list(first["threshold"].values) != list(second["threshold"].values):
        raise ConfigError("the two measures have different thresholds: declare the same for both")
    by: dict[float, Order] = {float(lead["threshold"]): _order(float(lead)) for lead in leads(first, second)}
    kinds: set[Order] = set(by.values())
    return Ordering(kinds.pop() if len(kinds) == 1 else "mixed", by)


def _order(lead: float) -> Order:
    if np.isnan(lead):
        return "censored"
    return "tie" if lead == 0 else "first" if lead > 0 else "second"


def orders(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> list[str]:
    """The order of two dates in each of several runs: `first`, `second` or `tie`.

    Args:
        first: One step per run; NaN where it never came.
        second: The other measure's step in the same runs. A run in which only one of them came has an order.

    Raises:
        ConfigError: If the two sequences differ in length.
    """
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} runs for the first measure, {len(second)} for the second: pair them")
    pairs = np.nan_to_num(np.array([first, second], dtype=float), nan=np.inf).T
    return ["first" if a < b else "second" if a > b else "tie" for a, b in pairs]
