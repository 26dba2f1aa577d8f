"""Fit a linear probe on some sequences, score it on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

INVERSE_DECAY = 0.1
"""scikit-learn's C for the logistic probe, on standardised features; its default of 1 overfits 64 classes."""
RIDGE = 1.0
"""Penalty of the ridge probe, on standardised features."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Activations and labels at single positions, and which sequence each came from.

    Args:
        x: `[n, d]`.
        y: Classes `[n]` (integers), or values `[n, k]` (floats).
        sequence: `[n]`.
        token: Token at the position `[n]`, or None for models that read vectors.
    """

    x: np.ndarray
    y: np.ndarray
    sequence: np.ndarray
    token: np.ndarray | None = None

    @property
    def classes(self) -> bool:
        """Whether the variable is a class, not a value."""
        return self.y.ndim == 1


@dataclass(frozen=True)
class Score:
    """Held-out accuracy or R2, and its interval."""

    value: float
    low: float
    high: float


def probe_score(train: Rows, test: Rows, confidence: float = 0.95) -> Score:
    """Accuracy of a logistic probe, or R2 of a ridge probe, on rows it was not fitted to.

    Args:
        train: Fitted on, after standardising each feature.
        test: Scored on; labels are compared with the truth whatever the probe was fitted to.
        confidence: Level of the interval, which treats a sequence, not a position, as one observation.
    """
    mean, scale = train.x.mean(0), train.x.std(0)
    scale = np.where(scale > 1e-12 * max(float(scale.max()), 1e-300), scale, 1.0)
    fitted, asked = (train.x - mean) / scale, (test.x - mean) / scale
    if train.classes:
        right = _classify(fitted, train.y, asked) == test.y
        return accuracy_interval(right, test.sequence, confidence)
    return r2_interval(_regress(fitted, train.y, asked), test.y, test.sequence, confidence)


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of several draws of a null; so are its interval's ends."""
    return Score(*(float(np.mean([getattr(one, key) for one in scores])) for key in ("value", "low", "high")))


def constant_score(train: Rows, test: Rows) -> float:
    """Held-out accuracy of the most frequent class, or R2 of the mean, both taken from the training rows."""
    if train.classes:
        values, counts = np.unique(train.y, return_counts=True)
        return float((test.y == values[counts.argmax()]).mean())
    guess = np.broadcast_to(train.y.mean(0), test.y.shape)
    return r2_interval(guess, test.y, test.sequence).value


def accuracy_interval(right: np.ndarray, sequence: np.ndarray, confidence: float = 0.95) -> Score:
    """Share of right answers, with Wilson's interval at the effective number of observations.

    That number is what independent answers would need for the variance seen between sequences (Korn & Graubard 1998);
    where all answers are right or all wrong, it is the number of sequences.
    """
    count, hits = _per_sequence(np.ones(len(right)), right.astype(float), sequence=sequence)
    clusters, share = len(count), hits.sum() / count.sum()
    if clusters < 2:
        return Score(float(share), 0.0, 1.0)
    variance = _ratio_variance(hits - share * count, count)
    size = min(share * (1 - share) / variance, len(right)) if variance > 0 else clusters
    z2 = stats.t.ppf(0.5 + confidence / 2, clusters - 1) ** 2 / size
    middle = (share + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    # Rounding must not put the share outside its own interval at 0 and 1.
    return Score(float(share), float(min(max(middle - half, 0.0), share)), float(max(min(middle + half, 1.0), share)))


def r2_interval(guess: np.ndarray, truth: np.ndarray, sequence: np.ndarray, confidence: float = 0.95) -> Score:
    """1 - squared error / squared deviation from the mean, both summed over features; t-interval over sequences."""
    error = np.square(guess - truth).sum(-1)
    spread = np.square(truth - truth.mean(0)).sum(-1)
    errors, spreads = _per_sequence(error, spread, sequence=sequence)
    if not spreads.sum() > 0:
        return Score(np.nan, np.nan, np.nan)
    lost = errors.sum() / spreads.sum()
    if len(errors) < 2:
        return Score(float(1 - lost), -np.inf, 1.0)
    half = stats.t.ppf(0.5 + confidence / 2, len(errors) - 1) * np.sqrt(
        _ratio_variance(errors - lost * spreads, spreads)
    )
    return Score(float(1 - lost), float(1 - lost - half), float(1 - lost + half))


def _classify(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if (y == y[0]).all():
        return np.full(len(asked), y[0])
    with warnings.catch_warnings():
        # A probe that stopped early decodes less, so it can only understate what is there.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=INVERSE_DECAY, tol=1e-3, max_iter=200).fit(x, y).predict(asked)


def _regress(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=RIDGE).fit(x, y).predict(asked).reshape(len(asked), -1)


def _per_sequence(*values: np.ndarray, sequence: np.ndarray) -> list[np.ndarray]:
    _, group = np.unique(sequence, return_inverse=True)
    return [np.bincount(group, value) for value in values]


def _ratio_variance(residual: np.ndarray, weight: np.ndarray) -> float:
    """Variance of a ratio of sums over independent clusters, to first order."""
    n = len(residual)
    return float(np.square(residual).sum() * n / (n - 1) / weight.sum() ** 2)
