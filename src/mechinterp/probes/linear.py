"""Fit a linear probe on some sequences, score it on others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mechinterp.core.statistics import Interval, accuracy_interval, r2_interval

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


def probe_score(train: Rows, test: Rows, confidence: float = 0.95) -> Interval:
    """Accuracy of a logistic probe, or R2 of a ridge probe, on rows it was not fitted to.

    Args:
        train: Fitted on, after standardising each feature.
        test: Scored on; labels are compared with the truth whatever the probe was fitted to.
        confidence: Level of the interval, which treats a sequence, not a position, as one observation.
    """
    fitted, held_out = standardised(train.x, test.x)
    if train.classes:
        right = _classify(fitted, train.y, held_out) == test.y
        return accuracy_interval(right, test.sequence, confidence)
    return r2_interval(_regress(fitted, train.y, held_out), test.y, test.sequence, confidence)


def standardised(fitted: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in units of the fitted rows' mean and spread; a feature that does not vary there stays in its own."""
    mean, scale = fitted.mean(0), fitted.std(0)
    scale = np.where(scale > 1e-12 * max(float(scale.max()), 1e-300), scale, 1.0)
    return (fitted - mean) / scale, (held_out - mean) / scale


def mean_score(scores: Sequence[Interval]) -> Interval:
    """The mean of several draws of a null; so are its interval's ends."""
    value, low, high = (float(np.mean([getattr(one, key) for one in scores])) for key in ("value", "low", "high"))
    return Interval(value, low, high)


def constant_score(train: Rows, test: Rows) -> float:
    """Held-out accuracy of the most frequent class, or R2 of the mean, both taken from the training rows."""
    if train.classes:
        values, counts = np.unique(train.y, return_counts=True)
        return float((test.y == values[counts.argmax()]).mean())
    guess = np.broadcast_to(train.y.mean(0), test.y.shape)
    return r2_interval(guess, test.y, test.sequence).value


def _classify(x: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if (y == y[0]).all():
        return np.full(len(held_out), y[0])
    with warnings.catch_warnings():
        # A probe that stopped early decodes less, so it can only understate what is there.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=INVERSE_DECAY, tol=1e-3, max_iter=200).fit(x, y).predict(held_out)


def _regress(x: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=RIDGE).fit(x, y).predict(held_out).reshape(len(held_out), -1)
