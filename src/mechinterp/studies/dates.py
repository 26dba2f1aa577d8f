"""The dates of many Runs as tables: one series per Run, its first passages, and which Runs are independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechinterp.core import ConfigError, suggest
from mechinterp.curves import first_passage
from mechinterp.studies.declaration import DatedQuantity, Declaration


@dataclass(frozen=True, eq=False)
class Dates:
    """What one quantity did in all Runs.

    Args:
        name: Of the quantity.
        series: Dimensions run, step; NaN where a Run was not measured.
        passages: Dimensions run, threshold: what `first_passage` says of each Run.
        threshold: The one whose passage is the date.
        weights: Seed of the weights of each Run.
        data: Seed of the data of each Run; equal to `weights` unless the two are crossed.
    """

    name: str
    series: xr.DataArray
    passages: xr.Dataset
    threshold: float
    weights: tuple[int, ...]
    data: tuple[int, ...]

    @property
    def at(self) -> xr.Dataset:
        """The passages of the date's threshold, by run."""
        return self.passages.sel(threshold=self.threshold, drop=True)

    @property
    def independent(self) -> list[int]:
        """Runs of which no two share a seed: all, or the diagonal of the crossed ones."""
        if self.weights == self.data:
            return list(range(len(self.weights)))
        pairs = list(zip(self.weights, self.data, strict=True))
        rows, columns = (list(dict.fromkeys(seeds)) for seeds in (self.weights, self.data))
        return [pairs.index(pair) for pair in zip(rows, columns, strict=False)]

    @property
    def table(self) -> xr.DataArray:
        """The date of each crossed Run: dimensions weights, data; NaN where it never came."""
        values = self.at["step"].values
        rows, columns = (list(dict.fromkeys(seeds)) for seeds in (self.weights, self.data))
        cells = np.full((len(rows), len(columns)), np.nan)
        for value, row, column in zip(values, self.weights, self.data, strict=True):
            cells[rows.index(row), columns.index(column)] = value
        return xr.DataArray(cells, dims=("weights", "data"), coords={"weights": rows, "data": columns})


def dates_of(
    declaration: Declaration,
    timelines: Sequence[xr.Dataset],
    weights: Sequence[int],
    data: Sequence[int],
) -> dict[str, Dates]:
    """Quantity -> its dates.

    Args:
        declaration: Of the quantities.
        timelines: One of each Run, with the quantities' measures by the quantities' names.
        weights: Seed of the weights of each Run.
        data: Seed of the data.

    Raises:
        ConfigError: If a quantity's entry does not exist, or is more than one number per step.
    """
    results = {}
    for name, quantity in declaration.quantities.items():
        rows = [series_of(line[name], quantity, name) for line in timelines]
        passages = [
            first_passage(row, quantity.chance, quantity.best, quantity.thresholds, declaration.hold, declaration.lasts)
            for row in rows
        ]
        joined = xr.concat(rows, "run", join="outer").transpose("run", "step").rename(name)
        table = xr.concat(passages, "run")
        results[name] = Dates(name, joined, table, quantity.date_threshold, tuple(weights), tuple(data))
    return results


def series_of(values: xr.DataArray, quantity: DatedQuantity, name: str) -> xr.DataArray:
    """The one number per step that a quantity is.

    Raises:
        ConfigError: If its entry does not exist, or is more than one number per step.
    """
    where = f"quantity '{name}'"
    for dim in (*quantity.select, *quantity.over):
        if dim not in values.dims:
            raise ConfigError(
                f"{where}: '{quantity.measure}' has no dimension '{dim}'.{suggest(dim, map(str, values.dims))}"
            )
    for dim, label in quantity.select.items():
        labels: list[object] = values[dim].values.tolist() if dim in values.coords else list(range(values.sizes[dim]))
        if label not in labels:
            raise ConfigError(f"{where}: no {dim} '{label}'.{suggest(str(label), map(str, labels))}")
        values = values.isel({dim: labels.index(label)}, drop=True)
    for dim, how in quantity.over.items():
        values = {"max": values.max, "min": values.min, "mean": values.mean}[how](dim)
    if rest := [str(dim) for dim in values.dims if dim != "step"]:
        raise ConfigError(
            f"{where} is one number per step: say in `select` or `over` what becomes of {', '.join(rest)}"
        )
    return values.drop_attrs()
