"""The shapes of one change: how a measure gets from one level to another, and how wide that is in ln t.

Each shape is scaled to rise by one between the first and the last checkpoint, so that its factor is the change that was
seen. Whether a change is a transition is a matter of its width alone, not of the formula that describes it best: a
relaxation that begins late and is short is as abrupt as a narrow logistic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Shape = Callable[[Array, Array], Array]

PER_WIDTH = 2 * np.log(9)
"""Widths w of a logistic between a tenth and nine tenths of its rise: 4.39."""
NARROWEST = 0.002
"""Least width: a jump between two checkpoints."""
_LONGEST = 30.0  # the longest relaxation time that is told from a line, in delays or in lengths of the run


@dataclass(frozen=True, eq=False)
class ShapeKind:
    """Shapes with the same formula.

    Args:
        name: In words.
        sudden: Whether its shapes are narrow ones, of `max_width` at most; all others are wider.
        values: From ln t `[step]` and parameters `[..., 2]` to the shape before scaling, `[..., step]`.
        passes: From parameters `[..., 2]` and levels before scaling `[...]` to ln t at that level.
        count: How many of the two parameters it has.
        bounded: Whether it rises from 0 to 1 before scaling.
    """

    name: str
    sudden: bool
    values: Shape
    passes: Shape
    count: int
    bounded: bool = True


def _line(log: Array, theta: Array) -> Array:
    return np.broadcast_to(np.exp(log), (*theta.shape[:-1], len(log)))


def _line_passes(theta: Array, level: Array) -> Array:
    return np.log(level)


def _power(log: Array, theta: Array) -> Array:
    c = theta[..., 0, None]
    safe = np.where(np.abs(c) < 1e-6, 1.0, c)
    return np.where(np.abs(c) < 1e-6, log, np.expm1(safe * log) / safe)


def _power_passes(theta: Array, level: Array) -> Array:
    c = theta[..., 0]
    safe = np.where(np.abs(c) < 1e-6, 1.0, c)
    return np.where(np.abs(c) < 1e-6, level, np.log1p(safe * level) / safe)


def _exponential(log: Array, theta: Array) -> Array:
    return -np.expm1(-np.exp(log - theta[..., 0, None]))


def _exponential_passes(theta: Array, level: Array) -> Array:
    return theta[..., 0] + np.log(-np.log1p(-level))


def _delayed_line(log: Array, theta: Array) -> Array:
    return np.maximum(np.exp(log - theta[..., 0, None]) - 1, 0.0)


def _delayed_line_passes(theta: Array, level: Array) -> Array:
    return theta[..., 0] + np.log1p(level)


def _delayed_exponential(log: Array, theta: Array) -> Array:
    """After a delay, a relaxation; parameters ln delay and ln(relaxation time / delay)."""
    return -np.expm1(-_delayed_line(log, theta) * np.exp(-theta[..., 1, None]))


def _delayed_exponential_passes(theta: Array, level: Array) -> Array:
    return theta[..., 0] + np.log1p(-np.log1p(-level) * np.exp(theta[..., 1]))


def _logistic(log: Array, theta: Array) -> Array:
    """Parameters ln t0 and ln w."""
    return 0.5 * (1 + np.tanh((log - theta[..., 0, None]) * np.exp(-theta[..., 1, None]) / 2))


def _logistic_passes(theta: Array, level: Array) -> Array:
    return theta[..., 0] + np.exp(theta[..., 1]) * (np.log(level) - np.log1p(-level))


SHAPE_KINDS = (
    ShapeKind("line", False, _line, _line_passes, 0, False),
    ShapeKind("power", False, _power, _power_passes, 1, False),
    ShapeKind("exponential", False, _exponential, _exponential_passes, 1),
    ShapeKind("delayed line", False, _delayed_line, _delayed_line_passes, 1, False),
    ShapeKind("delayed exponential", False, _delayed_exponential, _delayed_exponential_passes, 2),
    ShapeKind("wide logistic", False, _logistic, _logistic_passes, 2),
    ShapeKind("logistic", True, _logistic, _logistic_passes, 2),
    ShapeKind("short delayed line", True, _delayed_line, _delayed_line_passes, 1, False),
    ShapeKind("short delayed exponential", True, _delayed_exponential, _delayed_exponential_passes, 2),
)
CODES = {family.name: code for code, family in enumerate(SHAPE_KINDS)}
SUDDEN = np.array([family.sudden for family in SHAPE_KINDS])
COUNTS = np.array([family.count for family in SHAPE_KINDS])


def shapes(log: Array, codes: Array, theta: Array) -> Array:
    """Shapes that rise by one from the first to the last checkpoint.

    Args:
        log: ln t of the checkpoints, `[step]`.
        codes: Index in `SHAPE_KINDS`, `[...]`; -1 for a shape that is zero.
        theta: Parameters, `[..., 2]`.

    Returns:
        `[..., step]`.
    """
    flat_codes, flat_theta = codes.ravel(), theta.reshape(-1, 2)
    values = np.zeros((len(flat_codes), len(log)))
    for code in np.unique(flat_codes):
        if code >= 0:
            rows = flat_codes == code
            values[rows] = SHAPE_KINDS[code].values(log, flat_theta[rows])
    values -= values[:, :1]
    values /= np.where(values[:, -1:] == 0, 1.0, values[:, -1:])
    return values.reshape(*codes.shape, len(log))


def passing(log: Array, codes: Array, theta: Array, share: float) -> Array:
    """Ln t at which shapes have done a share of their rise between the first and the last checkpoint; NaN for none.

    Args:
        log: ln t of the checkpoints, `[step]`.
        codes: Index in `SHAPE_KINDS`, `[...]`; -1 for a shape that is zero.
        theta: Parameters, `[..., 2]`.
        share: Of the rise, between 0 and 1.
    """
    flat_codes, flat_theta = codes.ravel(), theta.reshape(-1, 2)
    times = np.full(len(flat_codes), np.nan)
    for code in np.unique(flat_codes):
        if code >= 0:
            rows = flat_codes == code
            family = SHAPE_KINDS[code]
            ends = family.values(log[[0, -1]], flat_theta[rows])
            level = ends[:, 0] + share * (ends[:, 1] - ends[:, 0])
            if family.bounded:
                # A rise that lies wholly between two checkpoints has levels of one, up to rounding.
                level = np.clip(level, 1e-12, 1 - 1e-12)
            times[rows] = family.passes(flat_theta[rows], level)
    return times.reshape(codes.shape)


def width(log: Array, codes: Array, theta: Array) -> Array:
    """The width w of the logistic that takes as long, in ln t, from a tenth to nine tenths of its rise; `[...]`."""
    return (passing(log, codes, theta, 0.9) - passing(log, codes, theta, 0.1)) / PER_WIDTH


@dataclass(frozen=True, eq=False)
class Bounds:
    """Where the parameters of each family lie, for given checkpoints and a given border between sudden and gradual.

    Args:
        low: `[family, parameter]`.
        high: `[family, parameter]`.
        dates: Values of the first parameter of families with two, ascending, `[date]`.
        relaxations: ln(relaxation time / delay) at which a delayed exponential is `max_width` wide, `[date]`.
        logistics: ln w at which a logistic is so wide; more than `max_width` where the run cuts it off, `[date]`.
    """

    low: Array
    high: Array
    dates: Array
    relaxations: Array
    logistics: Array

    @property
    def ranges(self) -> Array:
        """Length of each parameter's range, for the prior; 1 where there is no parameter, `[family, parameter]`.

        Jumps that are narrower than a hundredth are so much alike that they add nothing to it.
        """
        low = np.maximum(self.low, [-np.inf, np.log(0.01)])
        return np.where(self.high > self.low, self.high - low, 1.0)

    def clip(self, codes: Array, theta: Array) -> Array:
        """Parameters moved into the range of their family."""
        inside = np.clip(theta, self.low[codes], self.high[codes])
        second = inside[..., 1]
        for wide, narrow, borders in (
            ("delayed exponential", "short delayed exponential", self.relaxations),
            ("wide logistic", "logistic", self.logistics),
        ):
            border = np.interp(inside[..., 0], self.dates, borders)
            second = np.where(codes == CODES[wide], np.maximum(second, border), second)
            second = np.where(codes == CODES[narrow], np.minimum(second, border), second)
        return np.stack([inside[..., 0], second], -1)


def bounds(log: Array, max_width: float) -> Bounds:
    """The range of every family's parameters; changes begin and end among the checkpoints."""
    first, last = float(log[0]), float(log[-1])
    span = last - first
    widest = max(span, 2 * max_width)
    dates = np.linspace(first, last - 1e-6, 60)
    late = width(log, np.full(60, CODES["delayed line"]), np.stack([dates, 0 * dates], -1)) <= max_width
    # Lines that begin after this one are sudden.
    latest = float(dates[late.argmax()]) if late.any() else last - 1e-6

    def border(family: str, largest: float) -> Array:
        seconds = np.linspace(np.log(NARROWEST), np.log(largest), 200)
        grid = np.stack(np.meshgrid(dates, seconds, indexing="ij"), -1)
        narrow = (width(log, np.full(grid.shape[:2], CODES[family]), grid) <= max_width).sum(1)
        return seconds[np.clip(narrow, 0, len(seconds) - 1)]

    logistics = border("logistic", widest)
    wmin, most = np.log(NARROWEST), np.log(_LONGEST)
    power = min(2.0, 0.5 / max_width)
    rows = {
        "line": ((0, 0), (0, 0)),
        "power": ((-power, 0), (power, 0)),
        "exponential": ((first - 1, 0), (last + 3, 0)),
        "delayed line": ((first, 0), (latest, 0)),
        "delayed exponential": ((first, wmin), (latest, most)),
        "wide logistic": ((first, float(logistics.min())), (last, np.log(widest))),
        "logistic": ((first, wmin), (last, float(logistics.max()))),
        "short delayed line": ((latest, 0), (last - 1e-3, 0)),
        "short delayed exponential": ((first, wmin), (last - 1e-3, most)),
    }
    low, high = (np.array([rows[family.name][end] for family in SHAPE_KINDS], dtype=float) for end in (0, 1))
    return Bounds(low, high, dates, border("delayed exponential", _LONGEST), logistics)
