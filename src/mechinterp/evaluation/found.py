"""Whether a circuit is found: `yes`, `no` or `undecided`, with the reason.

Four conditions must hold on pairs that the search did not see:

1. The model does the task. Its loss has gone more than `ABILITY` of the way from the best trivial predictor to the best
   reference predictor, and is lower than that of untrained models.
2. There is a gap, of the right sign, and larger than in untrained models.
3. The circuit recovers more than `FLOOR` of the gap.
4. It recovers more than other circuits of its size, made of whole paths; circuits that contain it are left out.

Each is tested at the same level. All must hold, so a wrong "yes" is no likelier than the least strict test allows, and
needs no correction for their number (an intersection-union test; Berger 1982).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core import Circuit
from mechinterp.core.statistics import Interval, gap_between, p_value, ratio_of_means
from mechinterp.evaluation.ability import Ability, ability, gap_size, untrained_nulls
from mechinterp.interventions import Judge

Answer = Literal["yes", "no", "undecided"]
FOUND_LEVEL = 0.01
"""Level of each condition's test."""
FLOOR = 0.5
"""The share of the gap that a circuit must recover, at the lower end of its interval."""
ABILITY = 0.25
"""The share of the way from trivial to best that a model's loss must have gone, at the lower end of its interval."""


@dataclass(frozen=True)
class Condition:
    """One condition of a circuit being found.

    Args:
        name: `ability`, `gap`, `faithfulness` or `null`.
        answer: Whether it holds.
        text: The numbers behind it, in words.
    """

    name: str
    answer: Answer
    text: str


@dataclass(frozen=True)
class Found:
    """Whether a circuit is found.

    Args:
        conditions: All four, in their order.
        data: The numbers behind them: see `evaluate`.
    """

    conditions: tuple[Condition, ...]
    data: xr.Dataset

    @property
    def answer(self) -> Answer:
        """`no` if a condition fails, else `undecided` if one is, else `yes`."""
        return self._decisive[0]

    @property
    def reason(self) -> str:
        """The first condition that is behind the answer; all of them behind a yes."""
        return self._decisive[1]

    @property
    def _decisive(self) -> tuple[Answer, str]:
        for answer in ("no", "undecided"):
            for condition in self.conditions:
                if condition.answer == answer:
                    return answer, condition.text
        return "yes", "; ".join(condition.text for condition in self.conditions)


def found(
    judge: Judge,
    circuit: Circuit,
    rivals: Sequence[Circuit],
    *,
    exhaustive: bool,
    untrained: int = 99,
    seed: int = 0,
    level: float = FOUND_LEVEL,
) -> Found:
    """Decide whether a circuit is found.

    Args:
        judge: Of the model on held-out pairs.
        circuit: The circuit.
        rivals: Circuits of its size: see `rival_circuits`.
        exhaustive: Whether these are all there are.
        untrained: Number of untrained models; the smallest p-value that they can give is 1 / (1 + untrained).
        seed: Of their weights.
        level: Of each condition.
    """
    losses, gaps = untrained_nulls(judge, untrained, seed)
    # The two ends of an interval at 1 - 2 level are one-sided bounds, each at `level`.
    confidence = 1 - 2 * level
    able = ability(judge.transformer, judge.pair, untrained=losses, confidence=confidence)
    gap = judge.full - judge.nothing
    gap_p = p_value(gap_size(gap), gaps)
    valid = gap_between(judge.full, judge.nothing, confidence)
    share = (
        ratio_of_means(judge.scores([circuit])[0] - judge.nothing, gap, confidence)
        if valid.valid
        else Interval.missing()
    )
    null = judge.recovered_shares(rivals) if valid.valid else np.full(len(rivals), np.nan)
    p = p_value(share.value, null)
    data = xr.Dataset(
        {
            "ability": able.share.value,
            "ability_low": able.share.low,
            "ability_high": able.share.high,
            "loss": able.loss,
            "loss_trivial": able.trivial,
            "loss_best": able.best,
            "untrained_loss": ("untrained", able.untrained),
            "loss_p_value": able.p_value,
            "gap_size": gap_size(gap),
            "untrained_gap_size": ("untrained", gaps),
            "gap_p_value": gap_p,
        }
    )
    conditions = (
        _does_the_task(able, level),
        _has_a_gap(valid.low, valid.high, gap_p, untrained, level),
        _recovers(share),
        _beats_rivals(p, null, share, exhaustive, level),
    )
    return Found(conditions, data)


def _does_the_task(able: Ability, level: float) -> Condition:
    numbers = (
        f"its loss is {able.loss:.3g}, the best trivial predictor's ({able.trivial_name}) {able.trivial:.3g}, the best "
        f"reference's {able.best:.3g}"
    )
    if able.share.low > ABILITY and able.p_value <= level:
        return Condition("ability", "yes", f"the model does the task: {numbers}")
    if able.share.high <= ABILITY:
        return Condition("ability", "no", f"the model does not do the task: {numbers}")
    if 1 / (1 + len(able.untrained)) > level:
        why = f"only {len(able.untrained)} untrained models"
        return Condition("ability", "undecided", f"not testable at the level {level}: {why}")
    if able.p_value > level and able.share.low > ABILITY:
        lower = f"{(1 + len(able.untrained)) * able.p_value - 1:.0f} of {len(able.untrained)}"
        return Condition("ability", "undecided", f"{lower} untrained models have no higher loss")
    return Condition("ability", "undecided", f"these examples do not show that the model does the task: {numbers}")


def _has_a_gap(low: float, high: float, p: float, untrained: int, level: float) -> Condition:
    text = f"the gap between whole model and empty circuit is {low:.3g} to {high:.3g}"
    if high <= 0:
        return Condition("gap", "no", f"{text}: of the wrong sign")
    if low <= 0:
        return Condition("gap", "undecided", f"{text}, and may be zero")
    if 1 / (1 + untrained) > level:
        return Condition("gap", "undecided", f"not testable at the level {level}: only {untrained} untrained models")
    answer: Answer = "yes" if p <= level else "no" if p > 10 * level else "undecided"
    return Condition("gap", answer, f"{text}; beside untrained models p = {p:.2g}")


def _recovers(share: Interval) -> Condition:
    if not share.valid:
        return Condition("faithfulness", "undecided", "there is no gap of which the circuit could recover a share")
    text = f"the circuit recovers {share.low:.0%} to {share.high:.0%} of the gap"
    answer: Answer = "yes" if share.low > FLOOR else "no" if share.high <= FLOOR else "undecided"
    return Condition("faithfulness", answer, text if answer == "yes" else f"{text}; {FLOOR:.0%} are needed")


def _beats_rivals(
    p: float, null: Float[np.ndarray, " null"], share: Interval, exhaustive: bool, level: float
) -> Condition:
    count = len(null)
    if 1 / (1 + count) > level:
        why = (
            f"only {count} other circuits of its size exist"
            if exhaustive
            else f"only {count} random circuits are drawn"
        )
        return Condition("null", "undecided", f"not testable at the level {level}: {why}")
    if not share.valid:
        return Condition("null", "undecided", "there is no gap of which random circuits could recover a share")
    as_much = int((null >= share.value - 1e-9).sum())
    text = f"{as_much} of {count} random circuits of its size recover as much (p = {p:.2g})"
    return Condition("null", "yes" if p <= level else "no", text)
