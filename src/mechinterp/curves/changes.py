"""Where a measure's level changes, without assuming the shape of the change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ruptures
import xarray as xr
from scipy import stats

from mechinterp.core import ConfigError
from mechinterp.curves.onset import finite_series


@dataclass(frozen=True)
class ChangePoints:
    """Levels of a piecewise constant measure and the steps between them.

    Args:
        steps: First step of each level but the first; the change lies between it and the checkpoint in `after`.
        after: Last checkpoint of the level before.
        levels: Mean of each level; one more than `steps`.
        noise: Estimated standard deviation of one value.
        penalty: What each change point had to save in squared error; NaN if their number was given.
        used: Steps of the log-spaced checkpoints that were looked at.
    """

    steps: tuple[float, ...]
    after: tuple[float, ...]
    levels: tuple[float, ...]
    noise: float
    penalty: float
    used: tuple[float, ...]

    def __str__(self) -> str:
        if not self.steps:
            return f"no change point (level {self.levels[0]:.3g})" if self.levels else "no change point (no values)"
        parts = [f"{self.levels[0]:.3g}"]
        for a, b, level in zip(self.after, self.steps, self.levels[1:], strict=True):
            parts.append(f"-> {level:.3g} between steps {a:g} and {b:g}")
        return " ".join(parts)


def change_points(
    series: xr.DataArray,
    count: int | None = None,
    penalty: float | None = None,
    spacing: float = 0.1,
    min_size: int = 2,
) -> ChangePoints:
    """Change points of the mean by penalised least squares, exact (no greedy search).

    Measured on pure noise: about one series of 30 to 50 checkpoints in ten gets a change point at the default penalty.

    Args:
        series: One value per checkpoint, dimension `step`; NaN is left out.
        count: Find exactly so many (dynamic programming). Default: as many as pay their penalty (PELT).
        penalty: What a change point must save in squared error; default `2 s^2 ln n`, s by `noise_level`.
        spacing: Least distance of checkpoints in ln t. Dense late checkpoints are thinned to it, so that a slow
            drift over thousands of steps counts as little as it looks on a logarithmic axis. Step 0 is kept.
        min_size: Fewest checkpoints of a level.

    Raises:
        ConfigError: If an option is out of range or `count` levels do not fit.

    Source: PELT (Killick et al. 2012) and Dynp by `ruptures`.
    """
    if spacing < 0 or min_size < 1 or (count is not None and count < 0) or (penalty is not None and penalty < 0):
        raise ConfigError("spacing, count and penalty are at least 0 and min_size at least 1")
    steps, values = _thinned(*finite_series(series), spacing)
    if count is not None and (count + 1) * min_size > len(values):
        raise ConfigError(f"{count} change points need {(count + 1) * min_size} checkpoints, there are {len(values)}")
    noise = noise_level(values)
    if len(values) < 2 * min_size or np.ptp(values) == 0:
        levels = (float(values.mean()),) if len(values) else ()
        return ChangePoints((), (), levels, noise, np.nan, tuple(steps.tolist()))
    # A series without noise would make every wiggle pay; a thousandth of its range is no change worth naming.
    cost = 2 * max(noise, 1e-3 * float(np.ptp(values))) ** 2 * np.log(len(values)) if penalty is None else penalty
    column = values[:, None]
    if count is None:
        ends = ruptures.Pelt(model="l2", min_size=min_size, jump=1).fit(column).predict(pen=cost)
    elif count == 0:
        ends = [len(values)]
    else:
        ends = ruptures.Dynp(model="l2", min_size=min_size, jump=1).fit(column).predict(n_bkps=count)
    starts = [0, *ends[:-1]]
    levels = tuple(float(values[a:b].mean()) for a, b in zip(starts, ends, strict=True))
    return ChangePoints(
        tuple(float(steps[i]) for i in starts[1:]), tuple(float(steps[i - 1]) for i in starts[1:]), levels,
        noise, float(cost) if count is None else np.nan, tuple(steps.tolist()),
    )  # fmt: skip


def noise_level(values: np.ndarray, share: float = 0.8) -> float:
    """Robust standard deviation of one value, from first differences, of which a few jumps are left out.

    Root mean square of the smallest `share` of the differences, scaled to be right for Gaussian noise around a level.
    (The median of the differences is more robust and so much less precise on fifty values that it doubles the number
    of false change points.)
    """
    if len(values) < 2:
        return 0.0
    sizes = np.sort(np.abs(np.diff(values)))
    kept = sizes[: max(1, int(np.ceil(share * len(sizes))))]
    cut = stats.norm.ppf(0.5 + share / 2)
    shrink = 1 - 2 * cut * stats.norm.pdf(cut) / share
    return float(np.sqrt((kept**2).mean() / 2 / shrink))


def _thinned(steps: np.ndarray, values: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    kept: list[int] = []
    last = -np.inf
    for index, step in enumerate(steps):
        here = np.log(step) if step > 0 else -np.inf
        if not kept or step == 0 or here - last >= spacing * (1 - 1e-9):
            kept.append(index)
            last = here
    return steps[kept], values[kept]
