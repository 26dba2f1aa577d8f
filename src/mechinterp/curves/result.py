"""What is said of a curve: whether it has a transition, its stages and their dates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mechinterp.curves.shapes import CODES, shapes

OnsetVerdict = Literal["transition", "no transition"]
OnsetShape = Literal["none", "gradual", "one transition", "two stages", "three stages", "transient"]


@dataclass(frozen=True)
class Stage:
    """One change of a measure from level to level.

    Args:
        sudden: Whether it is a transition: narrow, large, and with enough checkpoints on either side.
        step: The step at which half of it is done.
        low: Lower end of that date's interval, in steps.
        high: Upper end.
        width: w, in ln t, of the logistic that takes as long from a tenth to nine tenths.
        before: Level before it.
        after: Level after it.
        formula: What describes it, for example `logistic`.
        parameters: Of the formula.
    """

    sudden: bool
    step: float
    low: float
    high: float
    width: float
    before: float
    after: float
    formula: str = "logistic"
    parameters: tuple[float, float] = (0.0, 0.0)

    @property
    def change(self) -> float:
        """By how much it raises the measure; negative if it falls."""
        return self.after - self.before


@dataclass(frozen=True)
class Onset:
    """What `onset` found.

    Args:
        verdict: `transition` or `no transition`.
        reason: Why it is no transition; empty for a transition.
        step: t0, the step of half the change of the main stage: the largest, and of those that reach 80% of it the
            first; of what is transient, the rise. Reported also without a transition (it is then that of the best
            single logistic and describes a fit, no event); NaN where nothing could be fitted.
        low: Lower end of t0's interval, in steps.
        high: Upper end.
        confidence: The interval's level.
        width: w, in ln t: a logistic climbs from 27% to 73% of its change within 2w.
        before: Fitted level before the main stage.
        after: Fitted level after it.
        untrained: The measured value at step 0, or at the first step where there is no step 0.
        jump: Fitted value at the last step minus `untrained`: what was reached, not extrapolated.
        lead: By how much curves with a transition beat all without, in -2 ln marginal likelihood.
        criteria: -2 ln marginal likelihood by kind of curve, up to a constant; lower is better.
        limits: `max_width`, `min_jump`, `evidence` and `min_side` as declared.
        checkpoints: How many values were fitted.
        shape: `none` (nothing changes), `gradual`, `one transition`, `two stages`, `three stages`, or `transient`: it
            rises (or falls) and at least half of that is lost again.
        stages: Every change that is seen, by date, sudden or not.
        moving: `rising` or `falling` if a tenth of the measure's changes came in the last fifth of the steps, else
            empty: its last level is not known.
        correlation: Estimated autocorrelation of the noise from one checkpoint to the next.
        start: Fitted level at the first checkpoint.
        window: First and last step of the fit.
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
    lead: float = float("nan")
    criteria: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    checkpoints: int = 0
    shape: OnsetShape = "none"
    stages: tuple[Stage, ...] = ()
    moving: Literal["", "rising", "falling"] = ""
    correlation: float = float("nan")
    start: float = float("nan")
    window: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def found(self) -> bool:
        """Whether there is a transition."""
        return self.verdict == "transition"

    @property
    def transitions(self) -> tuple[Stage, ...]:
        """The sudden stages, by date."""
        return tuple(stage for stage in self.stages if stage.sudden)

    @property
    def lost(self) -> Stage | None:
        """The stage by which a transient measure is lost again."""
        if self.shape != "transient":
            return None
        rise = self.stages[0].change if not self.found else self.after - self.before
        return [stage for stage in self.stages if stage.change * rise < 0][-1]

    def curve(self, steps: np.ndarray) -> np.ndarray:
        """The fitted curve at given steps; before the first checkpoint it is the level there."""
        inside = np.clip(np.asarray(steps, dtype=float), *self.window)
        log = np.log(np.concatenate([self.window[:1], inside.ravel(), self.window[1:]]))
        codes = np.array([CODES[stage.formula] for stage in self.stages], dtype=int)
        theta = np.array([stage.parameters for stage in self.stages]).reshape(-1, 2)
        changes = np.array([stage.change for stage in self.stages])
        return (self.start + changes @ shapes(log, codes, theta))[1:-1].reshape(inside.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        stages = [{**vars(stage), "parameters": list(stage.parameters)} for stage in self.stages]
        plain = {"criteria": dict(self.criteria), "limits": dict(self.limits), "stages": stages}
        return kept | plain | {"window": list(self.window)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Onset:
        """The reverse of `to_dict`."""
        stages = tuple(Stage(**{**one, "parameters": tuple(one["parameters"])}) for one in data["stages"])
        return cls(**{**data, "stages": stages, "window": tuple(data["window"])})

    @property
    def words(self) -> str:
        """The shape in words, for example `transient from step 40 to 300` or `gradual, still rising at the end`."""
        text: str = self.shape
        if self.lost is not None:
            begin = self.step if self.found else self.stages[0].step
            text = f"transient from step {begin:.0f} to {self.lost.step:.0f}"
        return f"{text}, still {self.moving} at the end" if self.moving else text

    def __str__(self) -> str:
        if not self.found:
            return f"no transition: {self.reason}" + (f" ({self.words})" if self.moving or self.lost else "")
        share = f"{100 * self.confidence:.0f}%"
        if self.shape == "one transition":
            moving = f", still {self.moving} at the end" if self.moving else ""
            return (
                f"transition at step {self.step:.0f} ({share} interval {self.low:.0f}-{self.high:.0f}), "
                f"width {self.width:.2f} in ln t, change {self.jump:+.3g} from {self.untrained:.3g}{moving}"
            )
        return f"{self.words}: " + "; ".join(f"{stage.change:+.3g} {_date(stage, share)}" for stage in self.stages)


def _date(stage: Stage, share: str) -> str:
    """When a stage was half done, in words."""
    about = "" if stage.sudden else "gradually about "
    return f"{about}at step {stage.step:.0f} ({share} interval {stage.low:.0f}-{stage.high:.0f})"
