"""Schedules along training: at which steps the weights are kept, and how large the learning rate is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

RateSchedule = Literal["constant", "linear", "cosine"]
"""What the learning rate does after warm-up."""

_FACTORS: dict[RateSchedule, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}
"""From the share of the steps after warm-up that are done to the share of the largest rate."""


def learning_rate(schedule: RateSchedule, largest: float, step: int, warmup: int, steps: int) -> float:
    """Learning rate of the update that follows step `step` (from 0).

    Args:
        schedule: Of the rate after warm-up.
        largest: The rate at the end of warm-up.
        step: Updates done so far.
        warmup: Updates in which the rate rises linearly.
        steps: Updates in all.
    """
    if step < warmup:
        return largest * (step + 1) / warmup
    return largest * _FACTORS[schedule]((step - warmup) / max(steps - warmup, 1))


def checkpoint_steps(steps: int, logarithmic: int, even: int) -> tuple[int, ...]:
    """Step 0, the last step, and steps at logarithmic and at even distances, ascending.

    >>> checkpoint_steps(100, 5, 4)
    (0, 1, 3, 10, 25, 32, 50, 75, 100)
    """
    log = np.geomspace(1, steps, logarithmic) if logarithmic else []
    linear = np.linspace(0, steps, even + 1)
    return tuple(sorted({0, steps, *(round(float(step)) for step in (*log, *linear))}))


def is_spaced(step: int) -> bool:
    """Whether a step is kept where no number of steps is known: all below 8, then four for each doubling.

    >>> [step for step in range(40) if is_spaced(step)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32, 38]
    """
    return step < 8 or step == round(2 ** (round(4 * math.log2(step)) / 4))
