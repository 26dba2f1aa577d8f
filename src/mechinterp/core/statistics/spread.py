"""How much runs differ from each other at each step, and when most: the susceptibility of training."""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core.errors import ConfigError, ShapeError
from mechinterp.core.seeds import generator
from mechinterp.core.statistics.intervals import CONFIDENCE

_DRAWS = 2000


def variance_over_seeds(values: xr.DataArray, *, confidence: float = CONFIDENCE, seed: int = 0) -> xr.Dataset:
    """Variance across runs at each step, and the step at which it peaks.

    If a measure jumps at another step in each run, its variance peaks where half of the runs have jumped.

    Args:
        values: Dimensions `run` (independent seeds) and `step`; a step where a value is not finite has no variance.
        confidence: Level of the intervals.
        seed: Of the resampled runs.

    Returns:
        By `step`: `mean`, `variance`, `low`, `high`, the variance's interval. Attributes: `runs`; `peak`, the step of
        the largest variance, with `peak_low` and `peak_high` (percentiles over resampled runs), NaN where nothing
        varies; `peak_inside`, the share of resamples with their peak neither at the first nor at the last step: near
        0 the variance has no peak that was passed.

    Raises:
        ShapeError: If the dimensions are others.
        ConfigError: If there are fewer than five runs.

    Source: Bonett 2006, "Approximate confidence interval for standard deviation of nonnormal distributions".
    """
    if set(values.dims) != {"run", "step"}:
        raise ShapeError(f"values over seeds have dimensions run and step, got {list(values.dims)}")
    table = values.transpose("run", "step").values.astype(float)
    if len(table) < 5:
        raise ConfigError(f"a variance over seeds needs five runs or more for an interval, got {len(table)}")
    steps = values["step"].values
    variance = table.var(0, ddof=1)
    low, high = _bonett(table, confidence)
    data = {"mean": table.mean(0), "variance": variance, "low": low, "high": high}
    result = xr.Dataset({name: ("step", row) for name, row in data.items()}, coords={"step": steps})
    return result.assign_attrs(runs=len(table), confidence=confidence, **_peak(table, steps, confidence, seed))


def _bonett(table: Float[np.ndarray, "run step"], confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a variance that allows for heavy and for light tails."""
    from scipy import stats

    n = len(table)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    middle = stats.trim_mean(table, 1 / (2 * np.sqrt(n - 4)) if n > 5 else 0.0, axis=0)
    squares = ((table - table.mean(0)) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = n * ((table - middle) ** 4).sum(0) / squares**2
        error = np.sqrt(np.maximum(kurtosis - (n - 3) / n, 0) / (n - 1))
        centre = np.log(n / (n - z)) + np.log(squares / (n - 1))
        return np.exp(centre - z * n / (n - z) * error), np.exp(centre + z * n / (n - z) * error)


def _peak(table: Float[np.ndarray, "run step"], steps: np.ndarray, confidence: float, seed: int) -> dict[str, float]:
    spread = np.nan_to_num(table.var(0, ddof=1), nan=-1.0)
    if not spread.max(initial=0.0) > 0:
        return dict.fromkeys(("peak", "peak_low", "peak_high", "peak_inside"), float("nan"))
    rng = np.random.default_rng(generator(seed, "variance over seeds").initial_seed())
    rows = rng.integers(len(table), size=(_DRAWS, len(table)))
    peaks = np.array([np.nan_to_num(table[one].var(0), nan=-1.0).argmax() for one in rows])
    low, high = np.quantile(peaks, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest").astype(int)
    inside = float(((peaks > 0) & (peaks < len(steps) - 1)).mean())
    ends = {"peak": steps[spread.argmax()], "peak_low": steps[low], "peak_high": steps[high]}
    return {name: float(step) for name, step in ends.items()} | {"peak_inside": inside}
