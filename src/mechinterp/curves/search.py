"""Which sums of shapes are worth fitting to a series: all of one and of two shapes of a library are tried.

The library depends on the checkpoints alone and is kept from one series to the next, so that each of hundreds of
series costs products of small matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mechinterp.curves.evidence import Series, Sums, fit, grams
from mechinterp.curves.shapes import CODES, SUDDEN, Array, Bounds, bounds, shapes

MOST = 3
"""Most changes in one series."""
_COARSE = np.array([0.0, 0.3, 0.6, 0.8, 0.9, 0.96])
_APART = 0.07  # least distance in ln t of the trial dates
_ALIKE = 1e-2  # trials with a correlation above .995 make no pair
_PAIRS = 3  # pairs of sudden changes that are fitted
RIVALS = 3
"""Gradual companions of a sudden change that are fitted."""


@dataclass(frozen=True, eq=False)
class Library:
    """Trial shapes for given checkpoints.

    Args:
        log: ln t of the checkpoints, `[step]`.
        bounds: Of all families.
        codes: ShapeKind of each trial, `[trial]`.
        theta: Its parameters, `[trial, 2]`.
        paired: Trials that enter pairs, `[trial]`.
        reads: What a series is multiplied with to get its product with each trial, noise whitened and the mean taken
            out, `[correlation, trial, step]`.
        products: Of the trials with each other likewise, `[correlation, trial, trial]`.
    """

    log: Array
    bounds: Bounds
    codes: Array
    theta: Array
    paired: Array
    reads: Array
    products: Array


def fitted_sums(log: Array, values: Array, max_width: float) -> tuple[Series, Sums]:
    """The sums of none to `MOST` shapes that explain a series best, one or more of each kind.

    Args:
        log: ln t of the checkpoints, ascending, `[step]`.
        values: The measure there, `[step]`.
        max_width: Border between sudden and gradual shapes, in ln t.
    """
    library = _library(log.tobytes(), max_width)
    series = Series(log, values, library.bounds)
    codes, theta = _starts(library, series)
    return series, fit(series, codes, theta)


@lru_cache(maxsize=8)
def _library(checkpoints: bytes, max_width: float) -> Library:
    log = np.frombuffer(checkpoints)
    limits = bounds(log, max_width)
    trials = _trials(log, limits, max_width)
    codes = np.concatenate([np.full(len(theta), CODES[name]) for name, theta in trials.items()])
    theta = limits.clip(codes, np.concatenate(list(trials.values())))
    rows = shapes(log, codes, theta)
    gram = grams(np.concatenate([np.ones((1, len(log))), rows]), _COARSE)
    products = gram[:, 1:, 1:] - gram[:, 1:, :1] * gram[:, :1, 1:] / gram[:, :1, :1]
    products += 1e-9 * np.eye(len(rows)) * np.einsum("rii->ri", products).max(1)[:, None, None]
    # A row of reads is V^-1 (trial - its whitened mean), V the noise's correlations.
    means = gram[:, 1:, 0] / gram[:, :1, 0]
    centred = rows - means[..., None]
    c = _COARSE[:, None, None]
    reads = centred * (1 + c**2)
    reads[..., [0, -1]] = centred[..., [0, -1]]
    reads[..., 1:] -= c * centred[..., :-1]
    reads[..., :-1] -= c * centred[..., 1:]
    paired = ~np.isin(codes, [CODES["short delayed line"], CODES["short delayed exponential"]])
    return Library(log, limits, codes, theta, paired, reads, products)


def _trials(log: Array, limits: Bounds, max_width: float) -> dict[str, Array]:
    """ShapeKind -> parameters to try."""
    first, last = log[0], log[-1]
    dates = [(log[0] + log[1]) / 2]
    for date in (log[1:] + log[:-1]) / 2:
        if date - dates[-1] >= _APART:
            dates.append(date)

    def grid(one: Array | list[float], two: Array | list[float]) -> Array:
        return np.stack(np.meshgrid(one, two, indexing="ij"), -1).reshape(-1, 2).astype(float)

    low, high = limits.low, limits.high
    latest = high[CODES["delayed line"], 0]
    longer = np.linspace(np.log(max_width) + 0.3, high[CODES["wide logistic"], 1], 3)
    ratios = np.log([0.1, 0.3, 1.0, 3.0, 10.0])
    return {
        "line": np.zeros((1, 2)),
        "power": grid(np.linspace(low[1, 0], high[1, 0], 9), [0.0]),
        "exponential": grid(np.linspace(first, last + 1, 14), [0.0]),
        "delayed line": grid(np.linspace(first + 1, latest, 8), [0.0]),
        "delayed exponential": grid(np.linspace(first + 0.5, latest, 8), ratios[1:]),
        "wide logistic": grid(np.linspace(first + 0.5, last, 10), longer),
        "logistic": grid(dates, np.log(max_width) + np.log([0.16, 0.5, 1.0])),
        "short delayed line": grid(np.linspace(low[CODES["short delayed line"], 0], last - 0.05, 8), [0.0]),
        "short delayed exponential": grid(dates, np.log([0.05, 0.15, 0.4, 1.0])),
    }


def _starts(library: Library, series: Series) -> tuple[Array, Array]:
    """Starting values: the best trial of each family, the best pairs and triples of each kind."""
    reads = library.reads @ series.values
    total = grams(np.stack([np.ones_like(series.values), series.values]), _COARSE)
    around = total[:, 1, 1] - total[:, 0, 1] ** 2 / total[:, 0, 0]
    floor = series.floor * (1 - _COARSE**2)
    sizes = np.einsum("rii->ri", library.products)
    chosen: list[tuple[int, ...]] = [()]
    one = _unlikely(around[:, None] - reads**2 / sizes, np.log(sizes), floor, total[:, 0, 0], len(series.values))
    best = one.min(0)
    for code in np.unique(library.codes):
        rows = np.flatnonzero(library.codes == code)
        chosen.append((int(rows[best[rows].argmin()]),))
    if len(series.values) >= 12:
        pairs = _pairs(library, reads, around, floor, total[:, 0, 0], len(series.values))
        chosen += pairs
        if len(series.values) >= 16:
            sudden = [pair for pair in pairs if SUDDEN[library.codes[list(pair)]].any()]
            chosen += _thirds(
                library, [sudden[0], sudden[-RIVALS]], reads, around, floor, total[:, 0, 0], len(series.values)
            )
    codes, theta = np.full((len(chosen), MOST), -1), np.zeros((len(chosen), MOST, 2))
    for row, trials in enumerate(chosen):
        codes[row, : len(trials)] = library.codes[list(trials)]
        theta[row, : len(trials)] = library.theta[list(trials)]
    return codes, theta


def _unlikely(squares: Array, logdet: Array, floor: Array, flat: Array, n: int) -> Array:
    """-2 ln likelihood but for what is the same in all sums of so many shapes, `[correlation, ...]`."""
    extra = (slice(None),) + (None,) * (squares.ndim - 1)
    kept = 1 - _COARSE**2
    fit = (n - 2) * np.log(np.maximum(squares, 0) + floor[extra])
    return fit + logdet + (np.log(flat) - np.log(kept))[extra]


def _pairs(library: Library, reads: Array, around: Array, floor: Array, flat: Array, n: int) -> list[tuple[int, ...]]:
    """The best pair of two sudden shapes, of a sudden and a gradual one (several), and of two gradual ones."""
    index = np.flatnonzero(library.paired)
    sudden = SUDDEN[library.codes[index]]
    b = reads[:, index]
    product = library.products[:, index[:, None], index]
    size = np.einsum("rii->ri", product)
    narrow, wide = np.flatnonzero(sudden), np.flatnonzero(~sudden)
    pairs = []
    for one, two, count in ((narrow, narrow, _PAIRS), (wide, narrow, RIVALS), (wide, wide, 2)):
        cross = product[:, one[:, None], two]
        first, second = b[:, one][:, :, None], b[:, two][:, None]
        long, short = size[:, one][:, :, None], size[:, two][:, None]
        det = long * short - cross**2
        alike = det < _ALIKE * long * short
        det = np.where(alike, long * short, det)
        gain = (first**2 * short - 2 * first * second * cross + second**2 * long) / det
        worth = _unlikely(around[:, None, None] - gain, np.log(det), floor, flat, n)
        worth = np.where(alike, np.inf, worth)
        if one is narrow:
            # The best at each autocorrelation: what noise of one kind explains, another needs a stage for.
            each = worth.reshape(len(worth), -1)
            order = np.argsort(each.min(1))
            places = list(dict.fromkeys(int(each[at].argmin()) for at in order))[:count]
            for place in places:
                a, c = np.unravel_index(place, worth.shape[1:])
                pairs.append((int(index[one[a]]), int(index[two[c]])))
            continue
        worth = worth.min(0)
        families = library.codes[index[one]]
        for code in sorted(set(families), key=lambda code: worth[families == code].min())[:count]:
            rows = np.flatnonzero(families == code)
            a, c = np.unravel_index(worth[rows].argmin(), worth[rows].shape)
            pairs.append((int(index[one[rows[a]]]), int(index[two[c]])))
    return pairs


def _thirds(
    library: Library, pairs: list[tuple[int, ...]], reads: Array, around: Array, floor: Array, flat: Array, n: int
) -> list[tuple[int, ...]]:
    """Each pair with the sudden shape that adds most to it."""
    more = np.flatnonzero(library.codes == CODES["logistic"])
    triples = []
    for pair in pairs:
        rows = np.array(pair)
        base = library.products[:, rows[:, None], rows]
        cross = library.products[:, rows[:, None], more]
        b = reads[:, rows, None]
        solved, weights = np.linalg.solve(base, b), np.linalg.solve(base, cross)
        left = np.einsum("rii->ri", library.products)[:, more] - (cross * weights).sum(1)
        alike = left < _ALIKE * np.einsum("rii->ri", library.products)[:, more]
        left = np.where(alike, 1.0, left)
        gain = (reads[:, more] - (b * weights).sum(1)) ** 2 / left
        squares = around[:, None] - (b * solved).sum(1) - gain
        worth = _unlikely(squares, np.log(left) + np.linalg.slogdet(base)[1][:, None], floor, flat, n)
        worth = np.where(alike, np.inf, worth).min(0)
        triples.append((*pair, int(more[worth.argmin()])))
    return triples
