"""Which of many heads, edges or latents have an effect, and from which checkpoint on: the look at many is paid for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from mechinterp.core import ConfigError, check_word
from mechinterp.core.statistics import false_discovery
from mechinterp.curves.passages import LASTS, passage

FALSE_DISCOVERY = 0.05
"""False discovery rate of a scan that names no other."""


def dated_effects(
    timeline: xr.Dataset,
    name: str,
    least: float = 0.0,
    side: Literal["both", "positive"] = "both",
    level: float = FALSE_DISCOVERY,
    hold: int = 2,
    lasts: float = LASTS,
) -> xr.Dataset:
    """The entries of a measure whose mean is farther from zero than `least` at some checkpoint, each with its date.

    Each entry at each checkpoint is tested by Student's t over examples (where all examples give the same, by their
    signs). An entry's p-value is the least of those of its checkpoints, adjusted for their number whatever their
    dependence; entries are then selected at false discovery rate `level`, again whatever their dependence. The
    checkpoints of the selected ones are tested at `level` times the share of entries that were selected, so that also
    their dates pay for the selection.

    Args:
        timeline: `<name>`, `<name>_se` and `<name>_n`, as `trace` returns them.
        name: The measure; all its dimensions but `step` together are the entries.
        least: Smallest effect that counts, in the measure's unit: with many examples any is certain.
        side: Whether effects of both signs count, or positive ones alone.
        level: Expected share of false ones among the selected entries.
        hold: Fewest consecutive checkpoints of an effect, as in `first_passage`.
        lasts: Least time of it in ln t.

    Returns:
        By entry: `p_value`, `q_value` (adjusted for all entries), `selected`; and of those selected `step`, `after`,
        `clear`, `left`, `censored`, `transient` as in `first_passage`. An entry can be selected and censored: its
        effect is there, but never for long enough. Attributes `entries` and `level`.

    Raises:
        ConfigError: If the timeline lacks the measure, or its values have no standard errors.

    Source: Benjamini & Yekutieli 2001; Hommel 1983 for an entry's p-value; Benjamini & Bogomolov 2014 for tests within
    selected families.
    """
    check_word("side", side, ("both", "positive"))
    mean, error, count = _parts(timeline, name)
    values, errors, counts = (
        part.values.astype(float).reshape(mean.sizes["step"], -1).T for part in (mean, error, count)
    )
    single = _p_values(values, errors, counts, least, side)
    by_step = np.array([false_discovery(row) for row in single]).reshape(single.shape)
    there = np.isfinite(by_step).any(1)
    entry_p = np.where(there, np.min(by_step, axis=1, initial=1.0, where=np.isfinite(by_step)), np.nan)
    entry_q = false_discovery(entry_p)
    selected = np.nan_to_num(entry_q, nan=1.0) <= level
    own_level = level * selected.sum() / max(int(there.sum()), 1)
    steps = mean["step"].values.astype(float)
    rows = [passage(steps, (row <= own_level) & take, hold, lasts) for row, take in zip(by_step, selected, strict=True)]
    data = dict(zip(("step", "after", "clear", "left"), np.array(rows).reshape(-1, 4).T, strict=True))
    data |= {"censored": np.isnan(data["step"]), "transient": np.isfinite(data["left"])}
    data = {"p_value": entry_p, "q_value": entry_q, "selected": selected, **data}
    first = mean.isel(step=0, drop=True)
    result = xr.Dataset({key: first.copy(data=part.reshape(first.shape)) for key, part in data.items()}).drop_attrs()
    return result.assign_attrs(entries=int(there.sum()), level=level, least=least, hold=hold, lasts=lasts)


def _parts(timeline: xr.Dataset, name: str) -> list[xr.DataArray]:
    """Mean, standard error and count, `step` first."""
    names = [f"{name}{end}" for end in ("", "_se", "_n")]
    missing = [one for one in names if one not in timeline]
    if missing:
        raise ConfigError(f"no '{missing[0]}' in this Timeline: trace the measure '{name}' first")
    mean = timeline[names[0]].transpose("step", ...)
    error, count = (timeline[one].broadcast_like(mean).transpose(*mean.dims) for one in names[1:])
    if not np.isfinite(error.values).any():
        raise ConfigError(f"'{name}' has no standard errors: it is not a mean over examples, so nothing can be tested")
    if set(mean.dims) == {"step"}:
        raise ConfigError(f"'{name}' has no entries beside its steps: use first_passage or onset")
    return [mean, error, count]


def _p_values(
    mean: Float[np.ndarray, "entry step"],
    error: Float[np.ndarray, "entry step"],
    count: Float[np.ndarray, "entry step"],
    least: float,
    side: str,
) -> Float[np.ndarray, "entry step"]:
    """p-values of "the mean is no farther from zero than `least`"; NaN where there is no mean."""
    from scipy import stats

    sides, number = 2 if side == "both" else 1, np.maximum(count, 2)
    beyond = (np.abs(mean) if side == "both" else mean) - least
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.minimum(sides * stats.t.sf(beyond / error, number - 1), 1.0)
    signs = np.where(beyond > 0, np.minimum(sides * 0.5**number, 1.0), 1.0)
    p = np.where(error > 0, p, signs)
    return np.where(np.isfinite(mean) & np.isfinite(error) & (count > 1), p, np.nan)
