"""Time two ways of doing one thing side by side.

A machine's speed drifts by more than what is measured, so both are run in turn, block by block, and only their ratio
within a block counts. With one thread the clock is the processor time of this process, which leaves out what other
programs took; with more threads it is the time on the wall.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

Call = Callable[[], object]
Figures: TypeAlias = dict[str, Any]
"""Plain data of a benchmark or of one of its cases, as `bench --json` prints it."""


def figures(
    name: str, meaning: str, target: float, rows: Sequence[Figures], headline: Figures, **more: object
) -> Figures:
    """What a benchmark prints: the figures of the case that makes the headline, then all cases."""
    first = {key: headline[key] for key in ("ratio", "low", "high", "error") if key in headline}
    return {"name": name, **first, "meaning": meaning, "target": target, "sizes": rows, **more}


@dataclass(frozen=True, eq=False)
class Times:
    """Seconds per call in each block.

    Args:
        first: Of the first step, `[block]`.
        second: Of the second step, `[block]`.
    """

    first: np.ndarray
    second: np.ndarray

    def ratio(self) -> dict[str, float]:
        """Median of first over second, and the 10th and 90th percentile over blocks."""
        low, middle, high = np.quantile(self.first / self.second, [0.1, 0.5, 0.9])
        return {"ratio": float(middle), "low": float(low), "high": float(high)}

    def seconds(self, first: str, second: str) -> dict[str, float]:
        """Median seconds under the two names."""
        return {first: float(np.median(self.first)), second: float(np.median(self.second))}


def alternate(first: Call, second: Call, blocks: int, calls: tuple[int, int] = (1, 1), warm: bool = True) -> Times:
    """Run two steps in turn; who begins alternates too.

    Args:
        first: A step.
        second: The step to compare it with.
        blocks: How many pairs of measurements.
        calls: How often each step is run in a block: a short one needs several for the clock to see it.
        warm: Whether to run both once before, unmeasured.
    """
    steps, spent = (first, second), ([], [])
    for step in steps if warm else ():
        step()
    with _no_collection():
        for block in range(blocks):
            for one in (0, 1) if block % 2 == 0 else (1, 0):
                spent[one].append(measure(steps[one], calls[one]))
    return Times(np.array(spent[0]), np.array(spent[1]))


def measure(step: Call, calls: int = 1) -> float:
    """Seconds per call."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(calls):
        step()
    return (clock() - begin) / calls


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before the measurements, not in them."""
    gc.collect()
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
