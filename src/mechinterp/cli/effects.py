"""What `patch` and `estimate` share: effects of nodes or edges, as a table, as JSON, as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechinterp.cli.options import Chosen

if TYPE_CHECKING:
    import xarray as xr

Top = Annotated[int, typer.Option("--top", min=1, help="Rows of the table, the largest effects first.")]
Out = Annotated[str, typer.Option("--out", help="File for the effect on every example, as netCDF (FILE.nc).")]


def measure_effects(what: str, function: Callable[..., xr.Dataset], chosen: Chosen, **settings: Any) -> xr.Dataset:
    """Call a function of the API behind a spinner, with the options that were given.

    Raises:
        ConfigError: If the function does not take one of them.
    """
    from mechinterp.cli.options import check_fit
    from mechinterp.cli.output import waiting

    check_fit(what, function, chosen.options)
    with waiting(f"measuring effects of {what}"):
        return function(chosen.model, chosen.pair, **settings, **chosen.options)


def show_effects(effects: xr.Dataset, chosen: Chosen, top: int, out: str, as_json: bool) -> None:
    """Print effects as means over examples, and write all of them to a file if one is named."""
    from mechinterp.cli.output import emit, table
    from mechinterp.core import recovery
    from mechinterp.training.files import write_atomic

    if out:
        write_atomic(Path(out), bytes(effects.to_netcdf(engine="scipy")))
    share = recovery(effects)
    dims = [str(dim) for dim in share["recovery"].dims]
    rows = list(_rows(effects, share["recovery"], dims))
    gap = {name: share[name] for name in ("gap", "gap_low", "gap_high", "valid")}
    if as_json:
        emit({**chosen.origin, **effects.attrs, **gap, "dims": dims, "file": out or None, "effects": rows})
        return
    rows.sort(key=lambda row: -abs(row["effect"]) if row["effect"] == row["effect"] else 1.0)
    attrs = effects.attrs
    notes = [
        f"effect in {attrs['metric']}, {attrs.get('direction', 'noise')}, {attrs['ablation']} ablation, mean of "
        f"{len(chosen.pair)} pairs, 95% interval; positive: keeping the clean value helps",
        f"recovery: effect / gap; {_gap(share)}",
        f"{min(top, len(rows))} of {len(rows)} rows" + (f"; all examples in {out}" if out else ""),
    ]
    title = f"Effects in {chosen.origin['run']}, step {chosen.origin['step']} ({attrs['method']})"
    table(title, list(rows[0]), [list(row.values()) for row in rows[:top]], notes)


def _gap(share: xr.Dataset) -> str:
    gap, low, high = (float(share[name]) for name in ("gap", "gap_low", "gap_high"))
    text = f"gap between clean and corrupted run {gap:.3g} ({low:.3g} to {high:.3g})"
    return text if share["valid"] else f"{text}, not clearly different from zero: no recovery"


def _rows(effects: xr.Dataset, share: xr.DataArray, dims: list[str]) -> Iterator[dict[str, Any]]:
    """One row per node or edge: where it is, its mean effect with interval, its recovery."""
    import numpy as np

    from mechinterp.core.statistics import mean_interval

    values = effects["effect"].transpose(*dims, "example").values
    for index in np.ndindex(*values.shape[:-1]):
        place = {dim: effects[dim].values[number].item() for dim, number in zip(dims, index, strict=True)}
        mean = mean_interval(values[index])
        numbers = {"effect": mean.value, "low": mean.low, "high": mean.high}
        yield {**place, **numbers, "recovery": float(share.transpose(*dims).values[index])}
