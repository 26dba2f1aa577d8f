"""When did a measure first pass declared thresholds, and which of two measures passed them first?

A run says nothing about what comes after its last step. So a passage that was not seen lies after the last step up to
which the measure surely had not passed, its `clear`, and an order that depends on where after is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core import ConfigError
from mechinterp.curves.onset import finite_series

Order = Literal["first", "second", "tie", "mixed", "undecided"]
THRESHOLDS = (0.1, 0.25, 0.5)
LASTS = 0.5
"""How long a passage must last, in ln t: until the step is 1.65 times as large."""


def first_passage(
    series: xr.DataArray,
    chance: float,
    best: float,
    thresholds: Sequence[float] = THRESHOLDS,
    hold: int = 2,
    lasts: float = LASTS,
) -> xr.Dataset:
    """First checkpoint at which the excess over chance passes each threshold, and stays.

    Thresholds are shares of the measure's own range, from what chance gives to the best it can be, and are declared
    before the measurement. A share of the *observed* change would make a measure that a short run cuts off look early.

    Args:
        series: One value per checkpoint, dimension `step`; NaN is left out.
        chance: What the measure is without the thing measured.
        best: What it is at its best; below `chance` for measures that fall, such as a loss.
        thresholds: Shares of that range, in (0, 1].
        hold: Fewest consecutive checkpoints, the first included, past the threshold; one dip undoes a passage.
        lasts: Least time from the first to the last of them, in ln t, however dense the checkpoints are; steps 0 and 1
            count as one. A blip is no passage. What has passed at the end, but not yet for so long, is undecided.

    Returns:
        By `threshold`: `step`, the first step past it (NaN where no passage was seen); `after`, the checkpoint before
        (the passage lies between `after` and `step`; NaN if already past at the first checkpoint); `clear`, the last
        step up to which there was no passage; `censored`, bool: no passage was seen. `left`, the step from which it was
        below again until the end, for as long as a passage must last (NaN where it stayed): the passage was
        `transient`, bool.

    Raises:
        ConfigError: If the range is empty or a threshold, `hold` or `lasts` is out of range.
    """
    if not np.isfinite([chance, best]).all() or chance == best:
        raise ConfigError(f"the range from chance={chance} to best={best} is empty: give two different finite values")
    if not thresholds or not all(0 < item <= 1 for item in thresholds):
        raise ConfigError(f"thresholds are shares of the range in (0, 1], got {list(thresholds)}")
    if hold < 1 or lasts < 0:
        raise ConfigError(f"hold={hold}, lasts={lasts}: at least one checkpoint, for at least 0 in ln t")
    steps, values = finite_series(series)
    rows = [passage(steps, (values - chance) / (best - chance) >= one, hold, lasts) for one in thresholds]
    parts = dict(zip(("step", "after", "clear", "left"), np.array(rows).T, strict=True))
    parts |= {"censored": np.isnan(parts["step"]), "transient": np.isfinite(parts["left"])}
    passages = xr.Dataset(
        {name: ("threshold", value) for name, value in parts.items()}, coords={"threshold": list(thresholds)}
    )
    return passages.assign_attrs(chance=float(chance), best=float(best), hold=hold, lasts=lasts)


def passage(steps: Float[np.ndarray, " step"], past: np.ndarray, hold: int, lasts: float) -> tuple[float, ...]:
    """Step, the checkpoint before, the last step that is clear of it, and when it was left, for one threshold."""
    log = np.log(np.maximum(steps, 1))
    edges = np.flatnonzero(np.diff(past)) + 1
    stays = [(a, b) for a, b in zip([0, *edges], [*edges, len(past)], strict=True) if b > a]
    # The tolerance keeps the rounding of logarithms from deciding.
    long = {(a, b): b - a >= hold and log[b - 1] - log[a] >= lasts - 1e-9 for a, b in stays}
    start = next((a for a, b in stays if past[a] and long[a, b]), None)
    if start is None:
        open_end = bool(len(past)) and past[-1]
        clear = [*steps[: stays[-1][0]][-1:]] if open_end else [*steps[-1:]]
        return np.nan, np.nan, clear[0] if clear else -1.0, np.nan
    before = steps[start - 1] if start else np.nan
    a, b = stays[-1]
    left = steps[a] if not past[a] and long[a, b] else np.nan
    return steps[start], before, before if start else -1.0, left


def leads(first: xr.Dataset, second: xr.Dataset, *, relative: bool = False) -> xr.Dataset:
    """By how many steps the first measure passes before the second, at each threshold.

    Args:
        first: The result of `first_passage` for one measure.
        second: The result for the other, with as many thresholds; they may be others, as in the time from 25% to 75%.
        relative: Return how many times as many steps the second takes instead.

    Returns:
        By `threshold` of the first: `least` and `most`, what the lead is at least and at most; equal where both passed.
        A passage that was not seen came one step after `clear` at the earliest, and never at the latest.

    Raises:
        ConfigError: If the numbers of thresholds differ.
    """
    if first.sizes["threshold"] != second.sizes["threshold"]:
        raise ConfigError("the two measures have different numbers of thresholds: give each as many as the other")
    (one_low, one_high), (two_low, two_high) = _bounds(first), _bounds(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        least = two_low / one_high if relative else two_low - one_high
        most = two_high / one_low if relative else two_high - one_low
    coords = {"threshold": first["threshold"].values}
    return xr.Dataset({"least": ("threshold", least), "most": ("threshold", most)}, coords=coords)


def _bounds(passages: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The earliest and the latest step that each passage can have."""
    step, clear = passages["step"].values, passages["clear"].values
    return np.where(np.isnan(step), clear + 1, step), np.where(np.isnan(step), np.inf, step)


@dataclass(frozen=True)
class Ordering:
    """Which of two measures came first in one run.

    Args:
        order: `first` or `second` if that one was earlier at every threshold; `tie` if they passed at the same
            checkpoint at every threshold; `undecided` if at every threshold the order is one of these or unknown; else
            `mixed`.
        by_threshold: The order at each threshold; `undecided` where a passage that was not seen could still come
            on either side of the other.
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
        second: The result for the other, with the same thresholds. One that passed is earlier than one that was watched
            as long and had not.

    Raises:
        ConfigError: If thresholds differ.
    """
    if list(first["threshold"].values) != list(second["threshold"].values):
        raise ConfigError("the two measures have different thresholds: declare the same for both")
    bounds = leads(first, second)
    by: dict[float, Order] = {
        float(threshold): _order(float(least), float(most))
        for threshold, least, most in zip(bounds["threshold"], bounds["least"], bounds["most"], strict=True)
    }
    kinds = set(by.values())
    decided = kinds - {"undecided"}
    if len(decided) > 1:
        return Ordering("mixed", by)
    return Ordering("undecided" if "undecided" in kinds else decided.pop(), by)


def _order(least: float, most: float) -> Order:
    if least > 0:
        return "first"
    if most < 0:
        return "second"
    return "tie" if least == most == 0 else "undecided"


def orders(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    last: Sequence[float] | np.ndarray | float,
) -> list[Order]:
    """The order of two dates in each of several runs: `first`, `second`, `tie` or `undecided`.

    Args:
        first: One step per run; NaN where it had not come by the last step.
        second: The other measure's step in the same runs.
        last: The last step of each run (or of all), up to which both measures were watched.

    Raises:
        ConfigError: If the sequences differ in length.
    """
    if len(first) != len(second) or np.size(last) not in (1, len(first)):
        raise ConfigError(f"{len(first)} runs for the first measure, {len(second)} for the second: pair them")
    ends = np.broadcast_to(np.asarray(last, dtype=float), len(first))
    early, late = (
        xr.Dataset({"step": ("threshold", np.asarray(one, dtype=float)), "clear": ("threshold", ends)})
        for one in (first, second)
    )
    one, two = _bounds(early), _bounds(late)
    with np.errstate(invalid="ignore"):
        return [_order(a, b) for a, b in zip(two[0] - one[1], two[1] - one[0], strict=True)]
