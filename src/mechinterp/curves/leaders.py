"""Which head leads at each checkpoint, and when one takes over from another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from mechinterp.core import ConfigError, ShapeError
from mechinterp.curves.passages import LASTS


@dataclass(frozen=True)
class Term:
    """The time during which one head leads all others.

    Args:
        head: Its address.
        start: The first step of the lead.
        after: The checkpoint before; the lead began between the two. NaN at the first checkpoint.
        last: The last step at which it leads.
    """

    head: str
    start: float
    after: float
    last: float


@dataclass(frozen=True)
class Leadership:
    """Who led when.

    Args:
        leading: At each checkpoint the head that is clearly ahead of every other there; empty where none is.
        terms: Leads that lasted, in their order, no two in a row of one head.
        largest: At each checkpoint the head with the largest value, clear or not.
        confidence: Level of the intervals, over all rivals of a checkpoint.
        lasts: How long a lead must last, in ln t.
    """

    leading: tuple[str, ...]
    terms: tuple[Term, ...]
    largest: tuple[str, ...]
    confidence: float
    lasts: float

    @property
    def takeovers(self) -> tuple[tuple[Term, Term], ...]:
        """Each term with the one that followed it."""
        return tuple(pairwise(self.terms))

    def __str__(self) -> str:
        if not self.terms:
            return "no head leads for long enough"
        return ", then ".join(f"{term.head} from step {term.start:g}" for term in self.terms)


def leadership(
    mean: xr.DataArray,
    error: xr.DataArray,
    count: xr.DataArray | float,
    least: float = 0.0,
    confidence: float = 0.95,
    hold: int = 2,
    lasts: float = LASTS,
) -> Leadership:
    """Say which head leads at each checkpoint, and where another takes over for good or for a while.

    A head leads at a checkpoint if it is ahead of every other by more than the interval of their difference. That is
    the sum of the two half-widths, which holds however the two are correlated over examples, at a level adjusted
    (Bonferroni) for the number of rivals. A lead counts if it lasts; a takeover is a lead that counts after a lead
    of another head that counts. Two heads that share the work, neither ahead of the other, make no takeover.

    Args:
        mean: Dimensions `step`, `layer`, `head`: scores of heads, or their effects.
        error: Standard errors, likewise.
        count: Examples, likewise or one number.
        least: A head whose value is not above this leads nobody.
        confidence: Level of the intervals.
        hold: Fewest consecutive checkpoints of a lead.
        lasts: Least time from the first to the last of them, in ln t.

    Raises:
        ShapeError: If the dimensions are others.
        ConfigError: If there are no standard errors, or an argument is out of range.
    """
    if set(mean.dims) != {"step", "layer", "head"}:
        raise ShapeError(f"heads over time have dimensions step, layer and head, got {list(mean.dims)}")
    if not np.isfinite(error.values).any():
        raise ConfigError("no standard errors: without intervals no head is ahead of another")
    if not 0 < confidence < 1 or hold < 1 or lasts < 0:
        raise ConfigError(f"confidence={confidence}, hold={hold}, lasts={lasts}: a level, at least 1, at least 0")
    order = ("step", "layer", "head")
    number = (count if isinstance(count, xr.DataArray) else xr.full_like(mean, float(count))).broadcast_like(mean)
    values, errors, counts = (
        part.transpose(*order).values.reshape(mean.sizes["step"], -1).astype(float) for part in (mean, error, number)
    )
    names = [f"L{layer}.H{head}" for layer in _labels(mean, "layer") for head in _labels(mean, "head")]
    ahead = _ahead(values, errors, counts, least, confidence)
    steps = mean["step"].values.astype(float)
    best = [
        names[row.argmax()] if np.isfinite(row).any() else "" for row in np.where(np.isfinite(values), values, -np.inf)
    ]
    leading = [names[row.argmax()] if row.any() else "" for row in ahead]
    return Leadership(tuple(leading), tuple(_terms(leading, steps, hold, lasts)), tuple(best), confidence, lasts)


def _labels(values: xr.DataArray, dim: str) -> list[int]:
    return [int(label) for label in (values[dim].values if dim in values.coords else range(values.sizes[dim]))]


def _ahead(
    values: Float[np.ndarray, "step head"],
    errors: Float[np.ndarray, "step head"],
    counts: Float[np.ndarray, "step head"],
    least: float,
    confidence: float,
) -> Bool[np.ndarray, "step head"]:
    """Whether each head is clearly ahead of all others; one without a value has no part."""
    from scipy import stats

    known = np.isfinite(values) & np.isfinite(errors) & (counts > 1)
    rivals = np.maximum(known.sum(1, keepdims=True) - 1, 1)
    half = stats.t.ppf(1 - (1 - confidence) / (2 * rivals), np.maximum(counts - 1, 1)) * errors
    low, high = np.where(known, values - half, -np.inf), np.where(known, values + half, -np.inf)
    rest = np.stack([np.delete(high, one, 1).max(1, initial=-np.inf) for one in range(high.shape[1])], 1)
    return known & (low > rest) & (low > least)


def _terms(leading: list[str], steps: np.ndarray, hold: int, lasts: float) -> list[Term]:
    """Runs of one leader that are long enough; one that leads again after a pause goes on with its term."""
    log = np.log(np.maximum(steps, 1))
    terms: list[Term] = []
    edges = [0, *(i for i in range(1, len(leading)) if leading[i] != leading[i - 1]), len(leading)]
    for a, b in pairwise(edges):
        if b == a or not leading[a] or b - a < hold or log[b - 1] - log[a] < lasts - 1e-9:
            continue
        if terms and terms[-1].head == leading[a]:
            terms[-1] = Term(leading[a], terms[-1].start, terms[-1].after, float(steps[b - 1]))
        else:
            terms.append(
                Term(leading[a], float(steps[a]), float(steps[a - 1]) if a else float("nan"), float(steps[b - 1]))
            )
    return terms
