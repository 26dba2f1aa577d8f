"""Labelled results: how an analysis hands back numbers, and the two ways to read an effect off them.

A patching result is a Dataset with `effect` (dimensions of the patch, then `example`), and `clean` and `corrupted`
(`example`), the metric of the two unpatched runs. Effects are signed so that positive means *keeping this helps*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from mechinterp._version import __version__
from mechinterp.core.errors import ConfigError, ShapeError
from mechinterp.core.statistics import gap_between


def labelled(
    data: Tensor | np.ndarray,
    dims: Sequence[str],
    coords: Mapping[str, Sequence[object] | np.ndarray] | None = None,
    **attrs: object,
) -> xr.DataArray:
    """A DataArray with our dimension names, and the version among its attributes.

    Raises:
        ShapeError: If the number of dimensions does not fit the data.
    """
    values = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    if values.ndim != len(dims):
        raise ShapeError(f"data has {values.ndim} dimensions {list(values.shape)}, names are {list(dims)}")
    return xr.DataArray(values, dims=list(dims), coords=dict(coords or {}), attrs=_attributes(attrs))


def patching_result(effect: xr.DataArray, clean: Tensor, corrupted: Tensor, **attrs: object) -> xr.Dataset:
    """Bundle an effect with the two runs that it lies between.

    Args:
        effect: Last dimension `example`.
        clean: Metric of the clean run, `[batch]`.
        corrupted: Metric of the run with everything corrupted, `[batch]`.
        **attrs: Metric, method, direction, ablation, ...
    """
    parts = {
        "effect": effect,
        "clean": labelled(clean, ["example"]),
        "corrupted": labelled(corrupted, ["example"]),
    }
    return xr.Dataset(parts, attrs=_attributes(attrs))


def recovery(result: xr.Dataset, confidence: float = 0.95) -> xr.Dataset:
    """Mean effect as a share of the mean gap between the clean and the corrupted run.

    Args:
        result: What `patch_nodes`, `patch_edges` or an estimate returned.
        confidence: Level of the gap's interval over examples.

    Returns:
        `recovery` without the `example` dimension, `gap`, `gap_low`, `gap_high` (in the metric's unit) and `valid`.
        Where the gap's interval contains zero `recovery` is NaN and `valid` is False: there is nothing to recover.

    Raises:
        ConfigError: If the result carries no clean and corrupted values.
    """
    missing = {"effect", "clean", "corrupted"} - set(result.data_vars)
    if missing:
        raise ConfigError(f"recovery needs a patching result; this one lacks {sorted(missing)}")
    gap = gap_between(result["clean"].values, result["corrupted"].values, confidence)
    share = result["effect"].mean("example") / gap.unit
    ends = {"gap_low": gap.low, "gap_high": gap.high}
    return xr.Dataset({"recovery": share, "gap": gap.mean, **ends, "valid": gap.valid}).assign_attrs(
        result.attrs, confidence=confidence
    )


def _attributes(attrs: Mapping[str, object]) -> dict[str, object]:
    """What a file can hold, with the version."""
    return {**{name: "none" if value is None else value for name, value in attrs.items()}, "version": __version__}
