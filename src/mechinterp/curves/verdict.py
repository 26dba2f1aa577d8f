"""From fitted sums of shapes to a verdict: transition or none, stages, words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from mechinterp.curves.dates import date_interval
from mechinterp.curves.evidence import NOISE_CORRELATIONS, Series, Sums
from mechinterp.curves.result import Onset, OnsetShape, Stage
from mechinterp.curves.search import RIVALS, fitted_sums
from mechinterp.curves.shapes import SHAPE_KINDS, SUDDEN, Array, passing, shapes, width

FEWEST_VALUES = 8
"""Finite values at positive steps: four parameters, a noise, and something left to judge by."""
_AS_LARGE = 0.8  # what counts as large as the largest stage
_LOST = 0.5  # share of a rise that is lost again in what is transient
_END = 0.8  # after this share of the last step ...
_MOVES = 0.1  # ... a measure that does this share of its changes is still moving
_AS_GOOD = 12.0  # -2 ln likelihood within which another formula has a say in a date
_RIVALS = {
    "line": "a straight line",
    "power": "a power law",
    "exponential": "an exponential relaxation",
    "delayed line": "a line after a rest",
    "delayed exponential": "a relaxation after a rest",
    "wide logistic": "a wide logistic",
}


def judged(steps: Array, values: Array, limits: Mapping[str, float], confidence: float) -> Onset:
    """The verdict on a series without gaps; see `onset`."""
    untrained = float(values[0]) if len(values) else np.nan
    x, y = steps[steps > 0], values[steps > 0]
    blank = Onset(
        "no transition", "", np.nan, np.nan, np.nan, confidence, np.nan, np.nan, np.nan, untrained, np.nan,
        limits=dict(limits), checkpoints=len(x),
    )  # fmt: skip
    if len(x) < FEWEST_VALUES:
        return replace(blank, reason=f"{len(x)} finite values after step 0; fewer than {FEWEST_VALUES} decide nothing")
    if float(((y - y.mean()) ** 2).sum()) <= 1e-20 * max(float((y**2).sum()), 1e-300):
        return replace(blank, reason="the series is constant", jump=float(y[-1] - untrained), start=float(y[0]))
    series, sums = fitted_sums(np.log(x), y, limits["max_width"])
    dates, widths = passing(series.log, sums.codes, sums.theta, 0.5), width(series.log, sums.codes, sums.theta)
    total = sums.total
    curves = [
        _Curve(series, sums, row, dates[row], widths[row], float(total[row]), steps, untrained, limits)
        for row in range(len(sums.codes))
    ]
    worth = np.array([curve.worth for curve in curves])
    # Evidence for a transition is evidence for one that is large enough and not at the edge.
    sudden = np.array([curve.sudden.any() for curve in curves])
    least = worth[sudden].min() if sudden.any() else np.inf
    lead = float(worth[~sudden].min() - least)
    cost = worth + np.array([curve.cost for curve in curves])
    best = curves[int(np.where(sudden == (lead >= limits["evidence"]), cost, np.inf).argmin())]
    found = best.sudden.any()
    stages = _dated(series, sums, best, curves, confidence)
    reason = "" if found else _reason(best, curves, lead, limits)
    shape = _shape(stages, best, limits)
    main = _main(stages) if found else _single(series, sums, curves, confidence)
    return replace(
        blank, verdict="transition" if found else "no transition", reason=reason,
        step=main.step, low=main.low, high=main.high, width=main.width, before=main.before, after=main.after,
        jump=float(best.values[-1] - untrained), lead=lead, criteria=_criteria(curves), shape=shape, stages=stages,
        moving=_moving(best, limits), correlation=best.correlation, start=best.start,
        window=(float(x[0]), float(x[-1])),
    )  # fmt: skip


class _Curve:
    """One fitted sum of shapes, its changes in the order of their dates.

    Attributes:
        row: Its number.
        codes: Families, `[change]`.
        columns: Where each change stands in the sum, `[change]`.
        worth: -2 ln marginal likelihood.
        cost: What the choice among companions of a sudden change costs, in the same unit.
        sudden: Which changes are transitions, `[change]`.
        large: Which changes are large enough to be told, `[change]`.
    """

    def __init__(
        self, series: Series, sums: Sums, row: int, dates: Array, widths: Array, total: float,
        steps: Array, untrained: float, limits: Mapping[str, float],
    ) -> None:  # fmt: skip
        log = series.log
        columns = np.flatnonzero(sums.codes[row] >= 0)
        self.row, self.columns = row, columns[np.argsort(dates[columns])]
        self.dates, self.widths = dates[self.columns], widths[self.columns]
        self.codes, self.theta = sums.codes[row, self.columns], sums.theta[row, self.columns]
        self.changes = sums.changes[row, 1 + self.columns]
        self.start = float(sums.changes[row, 0])
        self.levels = self.start + np.concatenate([[0.0], np.cumsum(self.changes)])
        self.values = self.start + self.changes @ shapes(log, self.codes, self.theta)
        self.log, self.untrained, self.limits = log, untrained, limits
        self.correlation = float(NOISE_CORRELATIONS[sums.deviance[row].argmin()])
        # Of several gradual companions the best is taken; the others' prior probability is lost.
        mixed = SUDDEN[self.codes].any() and not SUDDEN[self.codes].all()
        self.worth, self.cost = total, 2 * np.log(RIVALS) * float(mixed)
        passed = np.array([(steps <= np.exp(date) * (1 + 1e-9)).sum() for date in self.dates], dtype=int)
        self.sides = np.minimum(passed, len(steps) - passed)
        self.large = np.abs(self.changes) >= limits["min_jump"]
        self.far = np.abs(self.levels[1:] - untrained) >= limits["min_jump"]
        self.sudden = self.large & self._leads_away() & SUDDEN[self.codes] & (self.sides >= limits["min_side"])

    def _leads_away(self) -> Array:
        """Which changes lead to another level than the untrained one, or back from such a level."""
        away = self.far.copy()
        for at in range(1, len(away)):
            away[at] |= bool((self.far & self.large)[:at].any())
        return away


def _main(stages: tuple[Stage, ...]) -> Stage:
    """The first of the sudden stages that are about as large as the largest."""
    sudden = [stage for stage in stages if stage.sudden]
    most = max(abs(stage.change) for stage in sudden)
    return next(stage for stage in sudden if abs(stage.change) >= _AS_LARGE * most)


def _dated(series: Series, sums: Sums, best: _Curve, curves: list[_Curve], confidence: float) -> tuple[Stage, ...]:
    """The changes of a curve that are large enough to be told, with their dates' intervals."""
    stages = []
    for at, column in enumerate(best.columns):
        if not best.large[at]:
            continue
        rows, which = np.array([best.row]), np.array([column])
        if len(best.columns) == 1 and best.sudden[0]:
            others = [c for c in curves if len(c.columns) == 1 and SUDDEN[c.codes[0]] and c is not best]
            as_good = [c.row for c in others if c.worth - best.worth < _AS_GOOD]
            rows, which = np.array([best.row, *as_good]), np.zeros(1 + len(as_good), int)
        low, high = date_interval(series, sums, rows, which, confidence)
        stages.append(_stage(best, at, low, high))
    return tuple(stages)


def _stage(curve: _Curve, at: int, low: float, high: float) -> Stage:
    name, (one, two) = SHAPE_KINDS[curve.codes[at]].name, curve.theta[at].tolist()
    return Stage(
        bool(curve.sudden[at]), float(np.exp(curve.dates[at])), low, high, float(curve.widths[at]),
        float(curve.levels[at]), float(curve.levels[at + 1]), name, (one, two),
    )  # fmt: skip


def _single(series: Series, sums: Sums, curves: list[_Curve], confidence: float) -> Stage:
    """The best single logistic: it describes where no transition is claimed."""
    logistics = [
        c for c in curves if len(c.codes) == 1 and SHAPE_KINDS[c.codes[0]].name in ("logistic", "wide logistic")
    ]
    best = min(logistics, key=lambda curve: curve.worth)
    rows = np.array([best.row, *[c.row for c in logistics if c is not best and c.worth - best.worth < _AS_GOOD]])
    return _stage(best, 0, *date_interval(series, sums, rows, np.zeros(len(rows), int), confidence))


def _shape(stages: tuple[Stage, ...], best: _Curve, limits: Mapping[str, float]) -> OnsetShape:
    if not stages or np.ptp(np.append(best.values, best.untrained)) < limits["min_jump"]:
        return "none"
    for at, stage in enumerate(stages):
        later = sum(one.change for one in stages[at + 1 :] if one.change * stage.change < 0)
        if abs(later) >= _LOST * abs(stage.change):
            return "transient"
    count = sum(stage.sudden for stage in stages)
    names: tuple[OnsetShape, ...] = ("gradual", "one transition", "two stages", "three stages")
    return names[count]


def _moving(best: _Curve, limits: Mapping[str, float]) -> Literal["", "rising", "falling"]:
    all_of = float(np.abs(np.diff(best.values)).sum())
    late = np.exp(best.log[-1]) * _END
    end = float(best.values[-1] - np.interp(np.log(late), best.log, best.values))
    if all_of < limits["min_jump"] or abs(end) < _MOVES * all_of:
        return ""
    return "rising" if end > 0 else "falling"


def _criteria(curves: list[_Curve]) -> dict[str, float]:
    """Kind of curve -> the worth of the best of it."""
    worths: dict[str, float] = {}
    for curve in curves:
        name = " + ".join(sorted(SHAPE_KINDS[code].name for code in curve.codes)) or "flat"
        worths[name] = min(curve.worth, worths.get(name, np.inf))
    return worths


def _reason(best: _Curve, curves: list[_Curve], lead: float, limits: Mapping[str, float]) -> str:
    """Why no transition is claimed, in words."""
    least = limits["min_jump"]
    moved = float(np.abs(best.values - best.untrained).max())
    if moved < least:
        return f"it changed by {best.values[-1] - best.untrained:.3g}, less than {least:g}"
    steep = min(
        (c for c in curves if SUDDEN[c.codes].any() and not c.sudden.any()), key=lambda c: c.worth, default=best
    )
    if steep.worth <= best.worth and SUDDEN[steep.codes].any():
        at = int(np.where(SUDDEN[steep.codes], np.abs(steep.changes), 0).argmax())
        if not steep.large[at] or not steep.far[at]:
            moved = steep.levels[at + 1] - steep.untrained if steep.large[at] else steep.changes[at]
            return f"it changed by {moved:.3g}, less than {least:g}"
        where = "before" if 2 * steep.dates[at] < steep.log[0] + steep.log[-1] else "after"
        return f"only {steep.sides[at]} checkpoints lie {where} the change, fewer than {limits['min_side']:g}"
    if len(best.codes) == 1:
        name = SHAPE_KINDS[best.codes[0]].name
        if name == "wide logistic" or (name.startswith("delayed") and lead < 0):
            return f"it is gradual: width {best.widths[0]:.2f} in ln t, wider than {limits['max_width']:g}"
        rival = _RIVALS[name]
    else:
        rival = "a sum of gradual changes" if len(best.codes) else "noise that wanders"
    return f"{rival} explains it as well (a transition leads by {lead:.1f}, less than {limits['evidence']:g})"
