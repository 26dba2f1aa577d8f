"""How well sums of shapes explain a series whose noise wanders from checkpoint to checkpoint.

Noise is autoregressive of order one along the checkpoints. For each autocorrelation on a grid, levels, changes and the
size of the noise are integrated in closed form, the parameters of the shapes by Laplace's approximation. What results
is -2 ln of the marginal likelihood, of which the Bayesian information criterion is the crude form; unlike that, it
does not underestimate the autocorrelation of a series with many fitted levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from mechinterp.curves.shapes import COUNTS, Array, Bounds, shapes

NOISE_CORRELATIONS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97])
"""Autocorrelations of the noise, from one checkpoint to the next, between which the series decides."""
_CELLS = np.diff(np.concatenate([[0.0], (NOISE_CORRELATIONS[1:] + NOISE_CORRELATIONS[:-1]) / 2, [0.985]]))
RARITY = -2 * np.log(_CELLS / _CELLS.sum())
"""-2 ln of the prior probability of each: all autocorrelations are as likely."""
LEAST_NOISE = 1e-3
"""Least noise, as a share of the series' range: a thousandth of the range is no change worth naming."""
_STEP = 1e-4


@dataclass(frozen=True, eq=False)
class Series:
    """A series to explain.

    Args:
        log: ln t of the checkpoints, `[step]`.
        values: The measure there, `[step]`.
        bounds: Of the parameters of shapes.
    """

    log: Array
    values: Array
    bounds: Bounds

    @property
    def range(self) -> float:
        return float(np.ptp(self.values))

    @property
    def floor(self) -> float:
        """Squares that the least noise has, before whitening."""
        return len(self.values) * (LEAST_NOISE * self.range) ** 2


@dataclass(frozen=True, eq=False)
class Sums:
    """Several sums of shapes, fitted.

    Args:
        codes: ShapeKind of each shape, -1 for none, `[sum, shape]`.
        theta: Parameters, `[sum, shape, 2]`.
        changes: Level at the first checkpoint, then the change that each shape makes, `[sum, 1 + shape]`.
        deviance: -2 ln marginal likelihood by autocorrelation, the prior of the latter counted, `[sum, correlation]`.
    """

    codes: Array
    theta: Array
    changes: Array
    deviance: Array

    @property
    def total(self) -> Array:
        """-2 ln marginal likelihood over all autocorrelations, `[sum]`."""
        return soft_least(self.deviance)


def soft_least(deviance: Array) -> Array:
    """-2 ln of the sum of likelihoods along the last axis."""
    least = deviance.min(-1, keepdims=True)
    return (least - 2 * np.log(np.exp(-(deviance - least) / 2).sum(-1, keepdims=True)))[..., 0]


def whiten(rows: Array, correlation: Array | float) -> Array:
    """Rows `[..., step]` so transformed that autoregressive noise becomes independent; `correlation` broadcasts."""
    first = rows[..., :1] * np.sqrt(1 - correlation**2)
    return np.concatenate([first, rows[..., 1:] - correlation * rows[..., :-1]], -1)


def grams(rows: Array, correlations: Array) -> Array:
    """Products of all pairs of rows `[..., row, step]` after whitening: `[..., correlation, row, row]`."""
    middle = rows[..., 1:-1]
    cross = rows[..., 1:] @ np.swapaxes(rows[..., :-1], -1, -2)
    all_of, inner = rows @ np.swapaxes(rows, -1, -2), middle @ np.swapaxes(middle, -1, -2)
    cross = cross + np.swapaxes(cross, -1, -2)
    c = correlations[:, None, None]
    return all_of[..., None, :, :] - c * cross[..., None, :, :] + c**2 * inner[..., None, :, :]


def design(series: Series, codes: Array, theta: Array) -> tuple[Array, Array]:
    """The shapes, and their slopes in the parameters.

    Returns:
        `[sum, 1 + shape, step]`, the constant first, and `[sum, 2 shape, step]`, zero where there is no parameter.
    """
    moves = _STEP * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    values = shapes(series.log, np.broadcast_to(codes, (5, *codes.shape)), theta + moves[:, None, None])
    one = np.ones((len(codes), 1, len(series.log)))
    slopes = np.stack([values[1] - values[2], values[3] - values[4]], 2) / (2 * _STEP)
    slopes *= (np.arange(2) < COUNTS[codes][..., None])[..., None]
    return np.concatenate([one, values[0]], 1), slopes.reshape(len(codes), -1, len(series.log))


def deviance(series: Series, codes: Array, levels: Array, slopes: Array, changes: Array) -> Array:
    """-2 ln marginal likelihood of sums of shapes by autocorrelation, `[sum, correlation]`.

    Args:
        series: The series.
        codes: `[sum, shape]`.
        levels: First part of `design`.
        slopes: Second part.
        changes: As in `Sums`.
    """
    n, k = len(series.values), levels.shape[1] - 1
    slopes = slopes * np.repeat(changes[:, 1:], 2, 1)[..., None]
    prior = series.bounds.ranges[codes].reshape(len(codes), -1) / np.sqrt(2 * np.pi)
    values = np.broadcast_to(series.values, (len(codes), 1, n))
    rows = [levels[:, :1], levels[:, 1:] * series.range, slopes * prior[..., None], values]
    gram = grams(np.concatenate(rows, 1), NOISE_CORRELATIONS)
    constant = gram[..., :1, :1]
    gram = gram[..., 1:, 1:] - gram[..., 1:, :1] * gram[..., :1, 1:] / constant
    linear, last = gram[..., :k, :k], gram[..., -1]
    # A ridge far below what noise does to a change: it keeps shapes that are absent or alike from dividing by zero.
    solved = np.linalg.solve(linear + 1e-9 * n * np.eye(k) * series.range**2, last[..., :k, None])[..., 0]
    kept, count = 1 - NOISE_CORRELATIONS**2, (codes >= 0).sum(1)[:, None]
    squares = np.maximum(last[..., -1] - (solved * last[..., :k]).sum(-1), 0) + series.floor * kept
    free = n - 1 - count
    size = squares / free
    occam = np.eye(gram.shape[-1] - 1) + gram[..., :-1, :-1] / size[..., None, None]
    fit = free * np.log(np.pi * squares) - 2 * gammaln(free / 2) - np.log(kept) + np.log(constant[..., 0, 0])
    large = ((changes[:, 1:] / series.range) ** 2).sum(1)[:, None]
    return fit + count * np.log(2 * np.pi * size) + np.linalg.slogdet(occam)[1] + large + RARITY


def fit(series: Series, codes: Array, theta: Array, iterations: int = 16) -> Sums:
    """The most likely parameters of several sums of shapes at once, from starting values.

    Levenberg-Marquardt steps on all parameters; levels and changes follow in closed form at each (variable projection,
    Golub & Pereyra 1973). The autocorrelation is chosen again after a few steps.
    """
    theta = series.bounds.clip(codes, theta)
    state = _State(series, codes, theta, np.full(len(codes), 0.5))
    state = _State(series, codes, theta, NOISE_CORRELATIONS[state.deviance.argmin(1)])
    damping = np.full(len(codes), 1e-2)
    for iteration in range(iterations):
        trial = _State(series, codes, series.bounds.clip(codes, theta + state.move(damping)), state.correlation)
        better = trial.squares < state.squares
        gain = np.where(better, state.squares - trial.squares, 0) / state.squares
        damping = np.where(better, damping / 5, damping * 8)
        theta = np.where(better[:, None, None], trial.theta, theta)
        correlation = state.correlation
        settled = bool((gain < 1e-5).all()) and iteration > 2
        if iteration == 4 or settled:
            correlation = NOISE_CORRELATIONS[_State(series, codes, theta, correlation).deviance.argmin(1)]
        if settled and (correlation == state.correlation).all():
            break
        state = trial if better.all() and (correlation == state.correlation).all() else _State(
            series, codes, theta, correlation)  # fmt: skip
    return Sums(codes, theta, state.changes, state.deviance)


class _State:
    """Sums of shapes at given parameters and autocorrelations: their changes, squares, and where to go next."""

    def __init__(self, series: Series, codes: Array, theta: Array, correlation: Array) -> None:
        self.series, self.codes, self.theta, self.correlation = series, codes, theta, correlation
        self.levels, self.slopes = design(series, codes, theta)
        rho = correlation[:, None, None]
        values = np.broadcast_to(series.values, (len(codes), 1, len(series.values)))
        self._levels, self._values = whiten(self.levels, rho), whiten(values, rho)[:, 0]
        gram = self._levels @ np.swapaxes(self._levels, 1, 2)
        gram = gram + np.diag(1e-9 * len(series.values) * (np.arange(gram.shape[1]) > 0))
        self.changes = np.linalg.solve(gram, (self._levels @ self._values[..., None]))[..., 0]
        self._rest = self._values - (self.changes[:, None] @ self._levels)[:, 0]
        self.squares = (self._rest**2).sum(1) + series.floor * (1 - correlation**2)

    @property
    def deviance(self) -> Array:
        return deviance(self.series, self.codes, self.levels, self.slopes, self.changes)

    def move(self, damping: Array) -> Array:
        """The damped Gauss-Newton step of the parameters, `[sum, shape, 2]`."""
        scaled = self.slopes * np.repeat(self.changes[:, 1:], 2, 1)[..., None]
        columns = np.concatenate([self._levels, whiten(scaled, self.correlation[:, None, None])], 1)
        gram = columns @ np.swapaxes(columns, 1, 2)
        diagonal = np.einsum("mii->mi", gram)
        weak = np.maximum(diagonal * damping[:, None], 1e-9 * diagonal.max(1, keepdims=True))
        gram = gram + np.eye(gram.shape[1]) * weak[:, None]
        step = np.linalg.solve(gram, (columns @ self._rest[..., None]))[..., 0]
        step = step[:, self._levels.shape[1] :].reshape(self.theta.shape)
        return np.clip(step, -1.0, 1.0)
