"""The four curves that an onset is decided between, each fitted to its global least-squares optimum.

All four are linear in two parameters once their shape (`c`, `tau`, or `t0` and `w`) is fixed. So the shape alone is
searched, over a dense grid and then by `least_squares` from the best few grid points, and the two linear parameters
follow in closed form at every trial (variable projection: Golub & Pereyra 1973). Starting values cannot mislead it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import optimize

Array = np.ndarray
Shape = Callable[[Array, Array], Array]

_STARTS = 2
_FLAT = 1e-12  # a curve's share of total variation that counts as nothing: rounding, not signal


@dataclass(frozen=True, eq=False)
class Fit:
    """One fitted curve.

    Args:
        name: `line`, `power`, `exponential` or `logistic`.
        parameters: Offset and slope of the shape, then the shape's own parameters.
        count: Number of parameters, without the noise.
        rss: Residual sum of squares.
        predicted: The curve at the fitted steps, `[step]`.
    """

    name: str
    parameters: tuple[float, ...]
    count: int
    rss: float
    predicted: Array

    def criterion(self, kind: str, floor: float) -> float:
        """Bayesian (`bic`) or small-sample Akaike (`aicc`) criterion, Gaussian noise of unknown size; lower is better.

        Args:
            kind: `bic` or `aicc`.
            floor: Smallest residual sum of squares that means anything, so that exact data do not give log 0.
        """
        n, k = len(self.predicted), self.count + 1
        fit = n * np.log(max(self.rss, floor) / n)
        return float(fit + k * np.log(n)) if kind == "bic" else float(fit + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1))


def fit_curves(steps: Array, values: Array) -> dict[str, Fit]:
    """Fit line, power law, exponential relaxation and logistic.

    Args:
        steps: Training steps, positive and increasing, `[step]`.
        values: The measure there, finite, `[step]`.

    Returns:
        Name -> fit. `line` is `a + b t`; `power` is `a + b (t^c - 1)/c` (at c = 0 it is `a + b ln t`, so slow
        logarithmic growth is a rival too); `exponential` is `a + b (1 - exp(-t/tau))`; `logistic` is
        `a + (b - a) sigmoid((ln t - ln t0)/w)` with parameters `(a, b - a, ln t0, w)`.
    """
    log = np.log(steps)
    span = log[-1] - log[0]
    scale = steps / np.exp(log.mean())  # keeps powers of t near one

    def power(data: Array, shape: Array) -> Array:
        c = shape[..., 0, None]
        return np.where(np.abs(c) < 1e-6, log - log.mean(), (scale**c - 1) / np.where(np.abs(c) < 1e-6, 1.0, c))

    def exponential(data: Array, shape: Array) -> Array:
        return -np.expm1(-np.exp(log - shape[..., 0, None]))

    powers = np.linspace(-4, 4, 81)[:, None]
    # From well inside the first step to far beyond the last: a relaxation that has barely begun is nearly a line.
    rates = np.linspace(log[0] - 1, log[-1] + 3, 97)[:, None]
    line = _project(steps[None], values)
    fits = {
        "line": Fit("line", (float(line.offset[0]), float(line.slope[0])), 2, float(line.rss[0]), line.predicted[0])
    }
    fits["power"] = _search("power", power, powers, log, values)
    fits["exponential"] = _search("exponential", exponential, rates, log, values)
    fits["logistic"] = _search("logistic", logistic, logistic_grid(log, span), log, values)
    return fits


def logistic(log: Array, shape: Array) -> Array:
    """`sigmoid((ln t - ln t0)/w)` for shapes `[..., 2]` of (ln t0, w): `[..., step]`."""
    z = (log - shape[..., 0, None]) / shape[..., 1, None]
    return 0.5 * (1 + np.tanh(z / 2))


def logistic_grid(log: Array, span: float) -> Array:
    """Shapes (ln t0, w) to try: t0 between the first and the last step, w from a jump to as wide as the run."""
    gaps = np.diff(log)
    centres = np.unique(np.concatenate([(log[:-1, None] + gaps[:, None] * [0.0, 0.25, 0.5, 0.75]).ravel(), log[-1:]]))
    narrowest = max(np.median(gaps) / 8, 1e-3)
    widths = np.geomspace(narrowest, max(span, 2 * narrowest), 24)
    return np.stack(np.meshgrid(centres, widths, indexing="ij"), -1).reshape(-1, 2)


def profile(log: Array, values: Array, centres: Array, width: float) -> Array:
    """Least residual sum of squares of the logistic at each ln t0, widths within a factor 4 of `width`: `[centre]`.

    The least of the grid is refined by a parabola in ln w: a grid alone overstates the least RSS, and an interval
    drawn at a level of RSS would come out too short.
    """
    widths = width * np.geomspace(0.25, 4.0, 33)
    shapes = np.stack(np.meshgrid(centres, widths, indexing="ij"), -1).reshape(-1, 2)
    rss = _project(logistic(log, shapes), values).rss.reshape(len(centres), len(widths))
    row, least = np.arange(len(centres)), rss.argmin(1)
    inside = (least > 0) & (least < len(widths) - 1)
    left, here, right = (rss[row, (least + move).clip(0, len(widths) - 1)] for move in (-1, 0, 1))
    bend = np.where(inside & (left - 2 * here + right > 0), left - 2 * here + right, np.inf)
    return np.maximum(here - (left - right) ** 2 / (8 * bend), 0.0)


@dataclass(frozen=True, eq=False)
class _Projection:
    offset: Array
    slope: Array
    rss: Array
    predicted: Array


def _project(basis: Array, values: Array) -> _Projection:
    """Regress the values `[step]` on each basis row `[row, step]` with an offset."""
    mean, centre = basis.mean(-1, keepdims=True), values.mean()
    x, y = basis - mean, values - centre
    square = (x * x).sum(-1)
    alive = square > _FLAT * np.maximum((basis * basis).sum(-1), 1e-300)
    slope = np.where(alive, (x * y).sum(-1) / np.where(alive, square, 1.0), 0.0)
    predicted = centre + slope[..., None] * x
    return _Projection(centre - slope * mean[..., 0], slope, ((values - predicted) ** 2).sum(-1), predicted)


def _search(name: str, shape: Shape, grid: Array, log: Array, values: Array) -> Fit:
    """The best shape: the grid's best few points, each refined within the grid's bounds."""
    coarse = _project(shape(log, grid), values).rss
    best, least = grid[int(coarse.argmin())], float(coarse.min())
    refine = _refine_one if grid.shape[1] == 1 else _refine_many
    for found, rss in refine(shape, grid, coarse, log, values):
        if rss < least:
            best, least = found, rss
    final = _project(shape(log, best[None]), values)
    parameters = (float(final.offset[0]), float(final.slope[0]), *(float(item) for item in best))
    return Fit(name, parameters, len(parameters), float(final.rss[0]), final.predicted[0])


def _refine_one(shape: Shape, grid: Array, coarse: Array, log: Array, values: Array) -> Iterator[tuple[Array, float]]:
    """One parameter on a dense grid: between the neighbours of the best point."""
    index = int(coarse.argmin())
    bounds = grid[max(index - 1, 0), 0], grid[min(index + 1, len(grid) - 1), 0]

    def rss(value: float) -> float:
        return float(_project(shape(log, np.array([[value]])), values).rss[0])

    found = optimize.minimize_scalar(rss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    yield np.array([found.x]), float(found.fun)


def _refine_many(shape: Shape, grid: Array, coarse: Array, log: Array, values: Array) -> Iterator[tuple[Array, float]]:
    low, high = grid.min(0), grid.max(0)
    for start in grid[_spread(grid, coarse, high - low)]:
        inner = np.clip(start, low + 1e-9 * (high - low), high - 1e-9 * (high - low))
        found = optimize.least_squares(
            lambda p: values - _project(shape(log, p[None]), values).predicted[0],
            inner, bounds=(low, high), x_scale=high - low, xtol=1e-8, ftol=1e-10, max_nfev=40,
        )  # fmt: skip
        yield found.x, 2 * float(found.cost)


def _spread(grid: Array, rss: Array, extent: Array) -> list[int]:
    """The best grid points that are not neighbours of a better one."""
    chosen: list[int] = []
    for index in np.argsort(rss, kind="stable")[: 40 * _STARTS]:
        apart = [np.abs((grid[index] - grid[other]) / extent).max() > 0.08 for other in chosen]
        if all(apart):
            chosen.append(int(index))
        if len(chosen) == _STARTS:
            break
    return chosen
