"""When did a measure appear, and was it a transition at all?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy import stats

from mechinterp.core import ConfigError, ShapeError
from mechinterp.curves.fits import Fit, fit_curves, profile

OnsetVerdict = Literal["transition", "no transition"]
RIVALS = ("line", "power", "exponential")
FEWEST = 8  # finite values at positive steps: four parameters, a noise, and something left to judge by


@dataclass(frozen=True)
class Onset:
    """What `onset` found.

    Args:
        verdict: `transition` or `no transition`.
        reason: Why it is no transition; empty for a transition.
        step: t0, the step of half the change of the fitted logistic. Reported also without a transition (it then
            describes a fit, no event); NaN where nothing could be fitted.
        low: Lower end of t0's interval, in steps.
        high: Upper end.
        confidence: The interval's level.
        width: w, in ln t: the logistic climbs from 27% to 73% of its change within 2w.
        before: Fitted level before the change, a.
        after: Fitted level after it, b.
        untrained: The measured value at step 0, or at the first step where there is no step 0.
        jump: Fitted value at the last step minus `untrained`: what was reached, not extrapolated.
        criteria: The information criterion by model; lower is better.
        criterion: Which criterion: `bic` or `aicc`.
        limits: `max_width`, `min_jump`, `evidence` and `min_side` as declared.
        checkpoints: How many values were fitted.
    """

    verdict: OnsetVerdict
    reason: str
    step: float
    low: float
    high: float
    confidence: float
    width: float
    before: float
    after: float
    untrained: float
    jump: float
    criteria: Mapping[str, float] = field(default_factory=dict)
    criterion: str = "bic"
    limits: Mapping[str, float] = field(default_factory=dict)
    checkpoints: int = 0

    @property
    def found(self) -> bool:
        """Whether there is a transition."""
        return self.verdict == "transition"

    def curve(self, steps: np.ndarray) -> np.ndarray:
        """The fitted logistic at given steps; at step 0 it is `before`."""
        with np.errstate(divide="ignore", over="ignore"):
            z = (np.log(np.asarray(steps, dtype=float)) - np.log(self.step)) / self.width
        return self.before + (self.after - self.before) * 0.5 * (1 + np.tanh(z / 2))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return kept | {"criteria": dict(self.criteria), "limits": dict(self.limits)}

    def __str__(self) -> str:
        if not self.found:
            return f"no transition: {self.reason}"
        share = f"{100 * self.confidence:.0f}%"
        return (
            f"transition at step {self.step:.0f} ({share} interval {self.low:.0f}-{self.high:.0f}), "
            f"width {self.width:.2f} in ln t, change {self.jump:+.3g} from {self.untrained:.3g}"
        )


def onset(
    series: xr.DataArray,
    max_width: float = 0.25,
    min_jump: float = 0.1,
    evidence: float = 10.0,
    min_side: int = 3,
    criterion: Literal["bic", "aicc"] = "bic",
    confidence: float = 0.95,
) -> Onset:
    """Date a measure's appearance by a logistic in ln t, if it deserves to be called a transition.

    A transition is claimed only if the logistic beats a straight line, a power law and an exponential relaxation by
    the information criterion, is narrow, and jumps far enough. Smooth relaxation with noise beats a line and a power
    law easily, so the exponential is the rival that counts. t0 is half of the total change and only describes: use
    `first_passage` to say which of two measures came first.

    Measured on 45 checkpoints up to step 1,200, independent Gaussian noise of 0.005 to 0.2, changes of 0.85: of 3,200
    flat, linear, power-law, logarithmic, exponential, two-exponential and stretched-exponential curves none was called
    a transition (an earlier draw: one of 12,000). True logistics with w from 0.03 to 0.2 were called one in 97-100% of
    900 draws, and the 95% interval held the true t0 in 94-95%. Noise that wanders is another matter: of flat series
    with autocorrelation 0.8 between checkpoints 1-4% were called a transition, with 0.95 up to 13% (standard
    deviation 0.2, twice `min_jump`). If your measure wanders so, average it over more examples or raise `min_jump`.

    Args:
        series: One value per checkpoint, dimension `step`. NaN and infinite values are left out. Step 0 has no
            logarithm: it stays out of the fits and is the untrained value that the jump is measured against.
        max_width: Widest w that still is a transition, in ln t.
        min_jump: Least change from the untrained value to the fitted value at the last step, in the measure's unit.
        evidence: By how much the logistic's criterion must beat every rival's.
        min_side: Checkpoints (step 0 included) that must lie on either side of t0: one odd last value is no
            transition, and a run cut short has not shown its upper level.
        criterion: `bic` (Bayesian) or `aicc` (Akaike with small-sample correction).
        confidence: Level of t0's interval.

    Returns:
        Verdict, reason, t0 with its profile-likelihood interval (F-distribution; it knows that a change between two
        checkpoints has no better date than those two), width, levels, criteria.

    Raises:
        ShapeError: If the series has another dimension than `step`.
        ConfigError: If steps repeat, decrease or are negative, or a limit is out of range.

    Source: Schaeffer et al. 2023 for the need of rivals; the exponential is the one that counts.
    """
    _check_limits(max_width, min_jump, min_side, criterion, confidence)
    steps, values = finite_series(series)
    limits = {"max_width": max_width, "min_jump": min_jump, "evidence": evidence, "min_side": float(min_side)}
    fixed = {"confidence": confidence, "criterion": criterion, "limits": limits}
    trained = steps > 0
    untrained = float(values[0]) if len(values) else np.nan
    x, y = steps[trained], values[trained]
    if len(x) < FEWEST:
        said = f"{len(x)} finite values after step 0; fewer than {FEWEST} decide nothing"
        return _nothing(said, untrained, len(x), fixed)
    spread = float(((y - y.mean()) ** 2).sum())
    if spread <= 1e-20 * max(float((y**2).sum()), 1e-300):
        return _nothing("the series is constant", untrained, len(x), fixed, jump=float(y[-1] - untrained))
    fits = fit_curves(x, y)
    floor = 1e-12 * spread  # exact data: rounding is not evidence for one model over another
    criteria = {name: fit.criterion(criterion, floor) for name, fit in fits.items()}
    offset, change, log_t0, width = fits["logistic"].parameters
    low, high = _interval(x, y, fits["logistic"], confidence, floor)
    jump = float(fits["logistic"].predicted[-1] - untrained)
    sides = int((steps <= np.exp(log_t0)).sum()), int((steps > np.exp(log_t0)).sum())
    reason = _reason(criteria, width, jump, sides, limits)
    return Onset(
        "no transition" if reason else "transition", reason, float(np.exp(log_t0)), low, high,
        width=width, before=offset, after=offset + change, untrained=untrained, jump=jump,
        criteria=criteria, checkpoints=len(x), **fixed,
    )  # fmt: skip


def finite_series(series: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the value is finite, checked.

    Raises:
        ShapeError: If the series has another dimension than `step`, or no step coordinate.
        ConfigError: If steps repeat, decrease or are negative.
    """
    if series.dims != ("step",) or "step" not in series.coords:
        extra = [str(name) for name in series.dims if name != "step"]
        hint = f"select one entry of {extra} first, for example .sel({extra[0]}=...)" if extra else "label its steps"
        raise ShapeError(f"a series has the one dimension 'step' with its coordinate, got {list(series.dims)}: {hint}")
    steps, values = series["step"].values.astype(float), series.values.astype(float)
    if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
        raise ConfigError("steps must be non-negative and increase from checkpoint to checkpoint")
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def _reason(
    criteria: Mapping[str, float], width: float, jump: float, sides: tuple[int, int], limits: Mapping[str, float]
) -> str:
    """The first of the declared conditions that fails, in words; empty if none does."""
    rival = min(RIVALS, key=lambda name: criteria[name])
    lead = criteria[rival] - criteria["logistic"]
    if abs(jump) < limits["min_jump"]:
        return f"it changed by {jump:.3g}, less than {limits['min_jump']:g}"
    if lead < limits["evidence"]:
        names = {"line": "a straight line", "power": "a power law", "exponential": "an exponential relaxation"}
        return (
            f"{names[rival]} explains it as well (the logistic leads by {lead:.1f}, less than {limits['evidence']:g})"
        )
    if width > limits["max_width"]:
        return f"it is gradual: width {width:.2f} in ln t, wider than {limits['max_width']:g}"
    if min(sides) < limits["min_side"]:
        where = "before" if sides[0] < sides[1] else "after"
        return f"only {min(sides)} checkpoints lie {where} the change, fewer than {limits['min_side']:g}"
    return ""


def _interval(steps: np.ndarray, values: np.ndarray, fit: Fit, confidence: float, floor: float) -> tuple[float, float]:
    """t0's profile-likelihood interval: every t0 whose best logistic is not much worse than the best of all.

    RSS(t0) <= RSS_min (1 + F(1, n-4)/(n-4)), exact for a linear model and, unlike the curvature at the optimum, right
    where the change fell between two checkpoints and the likelihood is flat.
    """
    log = np.log(steps)
    n, best = len(steps), fit.parameters[2]
    limit = max(fit.rss, floor) * (1 + stats.f.ppf(confidence, 1, n - 4) / (n - 4))
    centres = np.unique(np.append(np.linspace(log[0], log[-1], 60), best))
    ends = [best, best]
    for _ in range(3):  # the whole run first, then twice between the neighbours of the two ends
        inside = profile(log, values, centres, fit.parameters[3]) <= limit
        inside[np.searchsorted(centres, best)] = True
        first, last = np.flatnonzero(inside)[[0, -1]]
        ends = [centres[first], centres[last]]
        left = np.linspace(centres[max(first - 1, 0)], centres[first], 12)
        right = np.linspace(centres[last], centres[min(last + 1, len(centres) - 1)], 12)
        centres = np.unique(np.concatenate([left, [best], right]))
    return float(np.exp(ends[0])), float(np.exp(ends[1]))


def _nothing(reason: str, untrained: float, count: int, fixed: dict, jump: float = np.nan) -> Onset:
    blank = dict.fromkeys(("step", "low", "high", "width", "before", "after"), np.nan)
    return Onset("no transition", reason, untrained=untrained, jump=jump, checkpoints=count, **blank, **fixed)


def _check_limits(max_width: float, min_jump: float, min_side: int, criterion: str, confidence: float) -> None:
    if criterion not in ("bic", "aicc"):
        raise ConfigError(f"criterion='{criterion}' is unknown: use 'bic' or 'aicc'")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} is no level: use a number between 0 and 1, such as 0.95")
    if max_width <= 0 or min_jump < 0 or min_side < 1:
        raise ConfigError("max_width must be positive, min_jump at least 0 and min_side at least 1")
