"""Which checkpoints are worth measuring: few at first, then those between which a value moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FIRST = 13
"""Checkpoints that are measured at first, evenly spaced among all."""
MOVE = 0.1
"""A value moves between two checkpoints if it changes by more than this share of its range."""
SMALL = 0.1
"""A value counts if its range is more than this share of the largest one of its measure."""
NOISE = 4.0
"""A value moves if it changes by more than this many standard errors of the difference."""


@dataclass(frozen=True, eq=False)
class Curves:
    """The values of one measure at some checkpoints.

    Args:
        mean: `[step, entry]`.
        se: Standard errors, likewise; NaN where there are none.
    """

    mean: Float[np.ndarray, "step entry"]
    se: Float[np.ndarray, "step entry"]


def adaptive_steps(steps: Sequence[int], measure: Callable[[Sequence[int]], Sequence[Curves]]) -> list[int]:
    """Steps that date every move as sharply as all checkpoints would.

    At first every eighth or so is measured. Between two neighbours of which a value moves, the checkpoint in the middle
    is measured, until every move lies between two checkpoints with none in between. What rises and falls again between
    two of the first ones is not seen.

    Args:
        steps: All steps, ascending.
        measure: Measures some of them, ascending; asked again with more, and for none twice that it must not forget.

    Returns:
        The steps that were measured, ascending.
    """
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(FIRST, len(steps)))})
    while True:
        moved = np.any([_moves(curves) for curves in measure([steps[place] for place in places])], axis=0)
        gaps = zip(places, places[1:], moved, strict=False)
        middles = {(low + high) // 2 for low, high, moves in gaps if moves and high - low > 1}
        if not middles:
            return [steps[place] for place in places]
        places = sorted({*places, *middles})


def _moves(curves: Curves) -> np.ndarray:
    """Between which neighbours some value moves, bool `[step - 1]`."""
    mean, se = curves.mean, np.nan_to_num(curves.se)
    finite = np.isfinite(mean).all(0)
    mean, se = mean[:, finite], se[:, finite]
    if not mean.size:
        return np.zeros(len(curves.mean) - 1, dtype=bool)
    reach = np.ptp(mean, axis=0)
    change = np.abs(np.diff(mean, axis=0))
    error = np.sqrt(se[1:] ** 2 + se[:-1] ** 2)
    large = (reach > SMALL * reach.max()) & (reach > 0)
    return ((change > MOVE * reach) & (change > NOISE * error) & large).any(1)
