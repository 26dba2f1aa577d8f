"""Intervals of scores over positions, where the independent unit is the sequence."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from mechinterp.core.statistics.intervals import CONFIDENCE, Interval, wilson


def accuracy_interval(
    right: Bool[np.ndarray, " row"], sequence: Int[np.ndarray, " row"], confidence: float = CONFIDENCE
) -> Interval:
    """Share of right answers, with Wilson's interval at the effective number of observations.

    That number is what independent answers would need for the variance seen between sequences (Korn & Graubard 1998);
    where all answers are right or all wrong, it is the number of sequences.

    Args:
        right: Whether each answer is right.
        sequence: The sequence that each answer belongs to.
        confidence: Level of the interval.
    """
    count, hits = _per_sequence(np.ones(len(right)), right.astype(float), sequence=sequence)
    clusters, share = len(count), hits.sum() / count.sum()
    if clusters < 2:
        return Interval(float(share), 0.0, 1.0)
    variance = _ratio_variance(hits - share * count, count)
    size = min(share * (1 - share) / variance, len(right)) if variance > 0 else clusters
    return Interval(float(share), *wilson(float(share), size, clusters, confidence))


def r2_interval(
    prediction: Float[np.ndarray, "row feature"],
    truth: Float[np.ndarray, "row feature"],
    sequence: Int[np.ndarray, " row"],
    confidence: float = CONFIDENCE,
) -> Interval:
    """1 - squared error / squared deviation from the mean, both summed over features; t-interval over sequences."""
    from scipy import stats

    error = np.square(prediction - truth).sum(-1)
    spread = np.square(truth - truth.mean(0)).sum(-1)
    errors, spreads = _per_sequence(error, spread, sequence=sequence)
    if not spreads.sum() > 0:
        return Interval.missing("the true values do not vary")
    lost = errors.sum() / spreads.sum()
    if len(errors) < 2:
        return Interval(float(1 - lost), -np.inf, 1.0)
    half = stats.t.ppf(0.5 + confidence / 2, len(errors) - 1) * np.sqrt(
        _ratio_variance(errors - lost * spreads, spreads)
    )
    return Interval(float(1 - lost), float(1 - lost - half), float(1 - lost + half))


def _per_sequence(*values: np.ndarray, sequence: np.ndarray) -> list[np.ndarray]:
    _, group = np.unique(sequence, return_inverse=True)
    return [np.bincount(group, value) for value in values]


def _ratio_variance(residual: np.ndarray, weight: np.ndarray) -> float:
    """Variance of a ratio of sums over independent clusters, to first order."""
    n = len(residual)
    return float(np.square(residual).sum() * n / (n - 1) / weight.sum() ** 2)
