"""Simulated curves whose changes are known: what the calibration of `onset` draws.

All ranges of parameters stand here and were declared before any figure was taken. Steps are those of the demo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mechinterp.curves.shapes import PER_WIDTH
from mechinterp.training.schedules import checkpoint_steps

LAST = 1200
STEPS = np.array(checkpoint_steps(LAST, 20, 60), dtype=float)
"""The demo's 78 checkpoints."""
GRADUAL, SUDDEN = 0.4, 0.15
"""Width from which a change is no transition, and up to which it is one."""
NOISES = (0.02, 0.05)
"""Standard deviation of the noise, in ranges of the curve."""
SIMULATED_CORRELATIONS = (0.0, 0.5, 0.8, 0.9)
"""Autocorrelation of the noise from one checkpoint to the next."""
Simulator = Callable[[np.random.Generator], "Curve"]
_NARROW, _WIDE = (0.03, SUDDEN), (0.03, 1.0)
_FINE = np.concatenate([[0.0], np.geomspace(1e-2, LAST, 20_000)])


@dataclass(frozen=True, eq=False)
class Curve:
    """One noiseless curve and what is true of it.

    Args:
        values: At `STEPS`, with a range of one (zero if flat).
        truth: `none` (flat), `gradual`, `between`, `one`, `two stages` or `transient`.
        dates: The step of half of each sudden change, in order.
    """

    values: np.ndarray
    truth: str
    dates: tuple[float, ...] = ()

    def noisy(self, noise: float, correlation: float, rng: np.random.Generator) -> np.ndarray:
        """The curve with autoregressive noise of order one, stationary from the first checkpoint on."""
        fresh = rng.normal(0, noise, len(self.values))
        wander = [fresh[0]]
        for one in fresh[1:]:
            wander.append(correlation * wander[-1] + np.sqrt(1 - correlation**2) * one)
        return self.values + wander


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sigmoid(t: np.ndarray, date: float, width: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 0.5 * (1 + np.tanh((np.log(t) - np.log(date)) / width / 2))


def _rise(shape: Callable[[np.ndarray], np.ndarray]) -> Curve:
    """One change from step 0 to the last; its width is that of the logistic with the same 10% and 90% times."""
    fine = shape(_FINE)
    share = (fine - fine[0]) / (fine[-1] - fine[0])
    tenth, half, most = (_FINE[int(np.argmax(share >= level))] for level in (0.1, 0.5, 0.9))
    width = np.log(most / tenth) / PER_WIDTH
    truth = "gradual" if width >= GRADUAL else "one" if width <= SUDDEN else "between"
    values = (shape(STEPS) - fine[0]) / (fine[-1] - fine[0])
    return Curve(values, truth, (float(half),) if truth == "one" else ())


def _flat(rng: np.random.Generator) -> Curve:
    return Curve(np.zeros(len(STEPS)), "none")


def _line(rng: np.random.Generator) -> Curve:
    return _rise(lambda t: t)


def _delayed_line(rng: np.random.Generator) -> Curve:
    delay = _log_uniform(rng, LAST / 100, LAST / 2)
    return _rise(lambda t: np.maximum(t - delay, 0))


def _power(rng: np.random.Generator) -> Curve:
    exponent = rng.uniform(0.2, 1.5)
    return _rise(lambda t: t**exponent)


def _exponential(rng: np.random.Generator) -> Curve:
    tau = _log_uniform(rng, LAST / 200, LAST)
    return _rise(lambda t: -np.expm1(-t / tau))


def _delayed_exponential(rng: np.random.Generator) -> Curve:
    delay, ratio = _log_uniform(rng, LAST / 60, LAST / 3), _log_uniform(rng, 0.1, 5)
    return _rise(lambda t: -np.expm1(-np.maximum(t - delay, 0) / (ratio * delay)))


def _log_growth(rng: np.random.Generator) -> Curve:
    start = _log_uniform(rng, 1, LAST / 10)
    return _rise(lambda t: np.log1p(t / start))


def _logistic(rng: np.random.Generator) -> Curve:
    date, width = _log_uniform(rng, LAST / 60, LAST / 2), _log_uniform(rng, *_WIDE)
    return _rise(lambda t: _sigmoid(t, date, width))


def _two_sudden(rng: np.random.Generator) -> tuple[tuple[float, float], np.ndarray, np.ndarray]:
    """Dates and shapes of two narrow logistics, one to two units of ln t apart."""
    apart = rng.uniform(1, 2)
    first = _log_uniform(rng, LAST / 60, LAST / 2 * np.exp(-apart))
    dates = first, float(first * np.exp(apart))
    one, two = (_sigmoid(STEPS, date, _log_uniform(rng, *_NARROW)) for date in dates)
    return dates, one, two


def _two_stages(rng: np.random.Generator) -> Curve:
    share = rng.uniform(0.25, 0.75)
    dates, one, two = _two_sudden(rng)
    return Curve(share * one + (1 - share) * two, "two stages", dates)


def _transient(rng: np.random.Generator) -> Curve:
    lost = rng.uniform(0.6, 1)
    dates, one, two = _two_sudden(rng)
    return Curve(one - lost * two, "transient", dates)


def _decay_plateau_drop(rng: np.random.Generator) -> Curve:
    early, tau = rng.uniform(0.2, 0.5), _log_uniform(rng, LAST / 800, LAST / 100)
    date, width = _log_uniform(rng, LAST / 12, LAST / 2), _log_uniform(rng, *_NARROW)
    return Curve(1 + early * np.expm1(-STEPS / tau) - (1 - early) * _sigmoid(STEPS, date, width), "one", (date,))


GENERATORS: dict[str, Simulator] = {
    "flat": _flat,
    "line": _line,
    "delayed line": _delayed_line,
    "power law": _power,
    "exponential": _exponential,
    "delayed exponential": _delayed_exponential,
    "log growth": _log_growth,
    "logistic": _logistic,
    "two stages": _two_stages,
    "transient": _transient,
    "decay, plateau, drop": _decay_plateau_drop,
}
"""Name -> one curve with parameters drawn at random, each log-uniformly but for exponents, shares and distances."""
