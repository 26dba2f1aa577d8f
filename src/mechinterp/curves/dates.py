"""When a change was half done, and between which steps that lies with a given probability.

The other changes of the curve, the level, the size of the noise and its autocorrelation are integrated out, and so is
the formula of the change: what describes it about as well has a say. Between two checkpoints any date is as likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mechinterp.curves.evidence import NOISE_CORRELATIONS, Series, Sums, design, whiten
from mechinterp.curves.shapes import CODES, COUNTS, Array, passing, shapes

_POINTS = (41, 15)
_RELAXATIONS = (CODES["delayed exponential"], CODES["short delayed exponential"])
_FAR = 12.0  # what is less likely by so much, in -2 ln, has no say


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Dates on a grid of parameters, and -2 ln of how likely each is.

    Args:
        dates: ln t of half of the change, `[point]`.
        deviance: `[point]`.
    """

    dates: Array
    deviance: Array


def date_interval(series: Series, sums: Sums, rows: Array, which: Array, confidence: float) -> tuple[float, float]:
    """The interval of one change's date, in steps.

    Args:
        series: The series.
        sums: Sums of shapes.
        rows: Those sums that describe the curve about as well, the best first, `[sum]`.
        which: Number of the change in each, `[sum]`.
        confidence: Probability of the interval.
    """
    if COUNTS[sums.codes[rows[0], which[0]]] == 0:
        return np.nan, np.nan  # a line through the whole run has no date that could be otherwise
    parts = [_posterior(series, sums, int(row), int(index)) for row, index in zip(rows, which, strict=True)]
    dates = np.concatenate([part.dates for part in parts])
    deviance = np.concatenate([part.deviance for part in parts])
    order = np.argsort(dates)
    weight = np.exp(-(deviance[order] - deviance.min()) / 2)
    below = (np.cumsum(weight) - weight / 2) / weight.sum()
    tail = (1 - confidence) / 2
    low, high = np.interp([tail, 1 - tail], below, dates[order])
    return float(np.exp(low)), float(np.exp(high))


def _posterior(series: Series, sums: Sums, row: int, index: int) -> _Posterior:
    """The posterior of one change in one sum, on a grid that is moved until it holds all of it."""
    codes, theta, changes = (part[row : row + 1] for part in (sums.codes, sums.theta, sums.changes))
    code, count = int(codes[0, index]), int(COUNTS[codes[0, index]])
    others = _others(series, codes, theta, changes, index)
    noises = np.flatnonzero(sums.deviance[row] - sums.deviance[row].min() < _FAR)
    low, high = series.bounds.low[code], series.bounds.high[code]
    centre, reach = _by_date(code, theta[0, index], 1), np.full(2, 0.1)
    if code in _RELAXATIONS:
        # Half of a long relaxation may lie beyond the last step.
        low, high = np.array([series.log[0], low[1]]), np.array([series.log[-1] + np.log1p(np.exp(high[1])), high[1]])
    axes = [np.array([value]) for value in centre]
    for _ in range(5):
        for one in range(count):
            ends = np.clip([centre[one] - reach[one], centre[one] + reach[one]], low[one], high[one])
            axes[one] = np.linspace(ends[0], ends[1], _POINTS[one])
        grid = _by_date(code, np.stack(np.meshgrid(*axes, indexing="ij"), -1), -1)
        inside = series.bounds.clip(np.full(grid.shape[:-1], code), grid)
        deviance = _deviance(series, others, code, inside, noises)
        deviance = np.where(np.abs(inside - grid).max(-1) < 1e-6, deviance, deviance.min() + 10 * _FAR)
        moves = [_recentred(axes[one], deviance.min(1 - one), low[one], high[one]) for one in range(count)]
        if all(move.settled for move in moves):
            break
        for one, move in enumerate(moves):
            centre[one], reach[one] = move.centre, move.reach
    cells = [(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in axes]
    prior = 2 * np.log(np.prod(series.bounds.ranges[code]) / np.prod(cells))
    dates = passing(series.log, np.full(grid.shape[:-1], code), inside, 0.5)
    return _Posterior(dates.ravel(), deviance.ravel() + prior)


def _by_date(code: int, theta: Array, direction: int) -> Array:
    """Parameters with the date in place of a relaxation's delay, or back: the two vary against each other."""
    if code not in _RELAXATIONS:
        return theta.copy()
    until = direction * np.log1p(np.log(2) * np.exp(theta[..., 1]))
    return np.stack([theta[..., 0] + until, theta[..., 1]], -1)


class _Move(NamedTuple):
    centre: float
    reach: float
    settled: bool


def _recentred(axis: Array, profile: Array, low: float, high: float) -> _Move:
    """Where a grid's axis should lie, so that it holds all that is likely and little else."""
    likely = axis[profile - profile.min() < _FAR]
    cell = float(axis[1] - axis[0])
    wide = float(likely[-1] - likely[0]) / 2
    cut_left = likely[0] > low + 1e-9 and likely[0] == axis[0]
    cut_right = likely[-1] < high - 1e-9 and likely[-1] == axis[-1]
    cut, coarse = bool(cut_left or cut_right), wide < cell * len(axis) / 6
    reach = 2 * cell * len(axis) if cut else max(wide + cell, 1e-6)
    return _Move(float(likely[0] + likely[-1]) / 2, reach, not cut and not coarse)


def _others(series: Series, codes: Array, theta: Array, changes: Array, index: int) -> Array:
    """What else may move: the level, the other changes and their parameters to first order, `[column, step]`."""
    levels, slopes = design(series, codes, theta)
    prior = series.bounds.ranges[codes[0]].ravel() / np.sqrt(2 * np.pi)
    slopes = slopes[0] * (np.repeat(changes[0, 1:], 2) * prior)[:, None]
    present = np.flatnonzero(codes[0] >= 0)
    rest = present[present != index]
    columns = [levels[0, :1], levels[0, 1 + rest] * series.range, slopes[2 * rest], slopes[2 * rest + 1]]
    columns = np.concatenate(columns)
    return columns[np.abs(columns).max(1) > 1e-9]


def _deviance(series: Series, others: Array, code: int, grid: Array, noises: Array) -> Array:
    """-2 ln likelihood of one change's parameters, all else integrated out: the shape of `grid` but its last axis."""
    points = grid.reshape(-1, 2)
    rows = shapes(series.log, np.full(len(points), code), points)
    n, free = len(series.values), len(series.values) - len(others) - 1
    total = np.full(len(points), np.inf)
    # The grid is dense towards one, and each of its points counts the same: rather too wide than too narrow, for the
    # autocorrelation of a short series is underestimated more often than not.
    for correlation in NOISE_CORRELATIONS[noises].tolist():
        kept = 1 - correlation**2
        white, columns, values = (whiten(part, correlation) for part in (rows, others, series.values))
        square = np.full(len(others), kept * series.floor / n)
        square[0] = 0
        gram = columns @ columns.T
        # The others' priors have a scale of one; against noise of a hundredth of the range that is a light ridge.
        gram += np.diag(square)
        solve = np.linalg.solve(gram, columns)
        left = values - (values @ columns.T) @ solve
        clean = white - (white @ columns.T) @ solve
        size = (clean * white).sum(1) + 1e-6 * n
        squares = left @ values - (clean @ values) ** 2 / size
        squares = np.maximum(squares, 0) + series.floor * kept
        deviance = free * np.log(squares) + np.log(size) + np.linalg.slogdet(gram)[1] - np.log(kept)
        low, high = np.minimum(total, deviance), np.maximum(total, deviance)
        total = low - 2 * np.log1p(np.exp(-(high - low) / 2))
    return total.reshape(grid.shape[:-1])
