"""What makes a date vary: two seeds are crossed, and the variance of ln t is split between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core.errors import ConfigError
from mechinterp.core.seeds import generator
from mechinterp.core.statistics.intervals import CONFIDENCE
from mechinterp.core.statistics.significance import p_value

REST = "rest"
_DRAWS = 20_000


class _Squares(NamedTuple):
    """Sums of squares of rows, columns and the rest, with their degrees of freedom."""

    sums: tuple[float, float, float]
    free: tuple[int, int, int]


def variance_components(
    dates: xr.DataArray, *, confidence: float = CONFIDENCE, permutations: int = 999, seed: int = 0
) -> xr.Dataset:
    """Split the variance of ln t of a crossed design: between the rows, between the columns, and the rest.

    The model is ln t = mean + row + column + rest, all independent, one run per cell. The rest holds the interaction
    of the two seeds: training has no other randomness. Variances are the unbiased ones of a balanced analysis of
    variance, so one near zero can come out negative.

    Args:
        dates: Positive steps, two dimensions, for example `weights` and `data`; two or more of each. NaN: censored, not
            there by the run's last step, which is then the same for all runs.
        confidence: Level of the intervals.
        permutations: Random permutations behind a p-value.
        seed: Of the permutations, and of the draws behind the intervals.

    Returns:
        By `source` (the two dimensions, then `rest`): `variance` of ln t, `share` of the total, each with `_low` and
        `_high`; `p_value` of "this factor makes no difference", NaN for the rest. The p-value permutes each column
        (or row) by itself, which is exact if the cells of one are exchangeable. With censored cells the variances and
        shares are NaN, since the largest dates are not known, and the p-value is of ranks, where censored cells share
        the last. Attributes: `runs`, `censored`, `reason`, empty where there are variances.

    Raises:
        ConfigError: If there are not two dimensions of two or more, or a step is not positive.

    Source: Searle, Casella & McCulloch 1992 for the estimates; Weerahandi 1993 for the generalised confidence
    intervals, which suppose normal ln t.
    """
    if dates.ndim != 2 or min(dates.shape) < 2:
        raise ConfigError(f"a crossed design has two dimensions of two or more seeds, got {dict(dates.sizes)}")
    steps = dates.values.astype(float)
    if (steps <= 0).any():
        raise ConfigError("steps must be positive: a date on ln t has no place for step 0")
    censored = int((~np.isfinite(steps)).sum())
    values = _ranks(steps) if censored else np.log(steps)
    table = {name: np.full(3, np.nan) for name in _COLUMNS}
    if not censored:
        squares = _squares(values)
        table |= _estimates(squares, values.shape) | _intervals(squares, values.shape, confidence, seed)
    rng = np.random.default_rng(generator(seed, "crossed", "permutations").initial_seed())
    table["p_value"][:2] = [_permutation(values, permutations, rng), _permutation(values.T, permutations, rng)]
    late = "never got there, or too late to be seen to last"
    reason = f"{censored} of {steps.size} runs {late}, and their variance is not known" if censored else ""
    data = {name: ("source", column) for name, column in table.items()}
    attrs = {"runs": steps.size, "censored": censored, "reason": reason, "confidence": confidence}
    return xr.Dataset(data, coords={"source": [*map(str, dates.dims), REST]}, attrs=attrs)


_COLUMNS = ("variance", "variance_low", "variance_high", "share", "share_low", "share_high", "p_value")


def _squares(values: Float[np.ndarray, "row column"]) -> _Squares:
    rows, columns = values.shape
    mean, row, column = values.mean(), values.mean(1), values.mean(0)
    between = columns * float(((row - mean) ** 2).sum()), rows * float(((column - mean) ** 2).sum())
    rest = float(((values - row[:, None] - column + mean) ** 2).sum())
    return _Squares((*between, rest), (rows - 1, columns - 1, (rows - 1) * (columns - 1)))


def _estimates(squares: _Squares, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    row, column, rest = (total / free for total, free in zip(*squares, strict=True))
    variance = np.array([(row - rest) / shape[1], (column - rest) / shape[0], rest])
    there = np.maximum(variance, 0)
    return {"variance": variance, "share": there / there.sum() if there.sum() else np.full(3, np.nan)}


def _intervals(squares: _Squares, shape: tuple[int, ...], confidence: float, seed: int) -> dict[str, np.ndarray]:
    """A sum of squares over its variance is chi-square: draw that, and the variances that fit the sums follow."""
    rng = np.random.default_rng(generator(seed, "crossed", "interval").initial_seed())
    row, column, rest = (total / rng.chisquare(free, _DRAWS) for total, free in zip(*squares, strict=True))
    draws = np.maximum([(row - rest) / shape[1], (column - rest) / shape[0], rest], 0)
    total = draws.sum(0)
    shares = np.divide(draws, total, out=np.full_like(draws, np.nan), where=total > 0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = {name: np.quantile(part, tails, axis=1) for name, part in (("variance", draws), ("share", shares))}
    return {f"{name}_{end}": values[i] for name, values in ends.items() for i, end in enumerate(("low", "high"))}


def _permutation(values: Float[np.ndarray, "row column"], count: int, rng: np.random.Generator) -> float:
    """p-value of "rows make no difference": under it the cells of a column can be exchanged."""
    shuffled = rng.permuted(np.broadcast_to(values, (count, *values.shape)), axis=1)
    spread = np.concatenate([values[None], shuffled]).mean(-1).var(-1)
    return p_value(float(spread[0]), spread[1:])


def _ranks(steps: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    from scipy import stats

    return stats.rankdata(np.where(np.isfinite(steps), steps, np.inf).ravel()).reshape(steps.shape)
