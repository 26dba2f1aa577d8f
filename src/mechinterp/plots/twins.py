"""What an intervention in training moves: a measure along plain and changed training, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError, suggest
from mechinterp.plots.style import COLOURS, MUTED, StepAxis, add_end_labels, add_line, base, rgba, write

_OF_ARM = {"plain": MUTED, "changed": COLOURS[0]}


def twin_curves(
    curves: xr.Dataset, name: str, dates: xr.DataArray | None = None, shifts: Sequence[str] = ()
) -> go.Figure:
    """One measure along training, a line per run: plain in grey, changed in colour, dates as marks on the axis.

    Args:
        curves: `twins(...).curves`: variables by `arm` (`plain`, `changed`), `seed` and `step`.
        name: The variable.
        dates: Steps by `arm` and `seed`, `twins(...).dates["step"]` at one date; NaN where it did not come.
        shifts: Lines written above the figure, such as `str(twins(...).shifts[date])`.

    Raises:
        ConfigError: If there is no such curve.
    """
    if name not in curves:
        raise ConfigError(f"no curve '{name}'.{suggest(name, map(str, curves.data_vars))}")
    values, steps = curves[name], curves["step"].values
    axis = StepAxis(steps)
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * ((high - low) or 1.0)
    span = (low - pad, high + pad)
    figure = base(height=360 + 18 * len(shifts), margin={"r": 96, "t": 14 + 18 * len(shifts)})
    for arm, colour in _OF_ARM.items():
        for seed in curves["seed"].values:
            line = values.sel(arm=arm, seed=seed).values.astype(float)
            add_line(figure, axis(steps), line, f"{arm}, seed {seed}", colour, None, steps, width=1.4)
        if dates is not None:
            came = dates.sel(arm=arm).values.astype(float)
            _mark_dates(figure, axis(came[np.isfinite(came)]), span[0], arm, colour)
    ends = [
        (float(values.sel(arm=arm).isel(step=-1).mean()), f"<b>{arm}</b>", colour) for arm, colour in _OF_ARM.items()
    ]
    add_end_labels(figure, ends, span, height=298)
    for row, words in enumerate(shifts):
        write(figure, words, x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", yshift=18 * row)
    return figure.update_layout(
        xaxis=axis.layout(), yaxis={"range": list(span), "title": {"text": name}}, hovermode="closest"
    )


def _mark_dates(figure: go.Figure, places: np.ndarray, height: float, arm: str, colour: str) -> None:
    """A tick for each date, and the geometric mean larger."""
    if not len(places):
        return
    size = [11] * len(places) + [20]
    marks = {"symbol": "line-ns", "size": size, "line": {"width": 2, "color": rgba(colour, 0.9)}}
    mean = float(np.exp(np.log(places).mean()))
    figure.add_scatter(
        x=[*places, mean],
        y=[height] * (len(places) + 1),
        mode="markers",
        name=f"dates, {arm}",
        marker=marks,
        cliponaxis=False,
        hovertemplate=f"{arm}: step %{{x:.0f}}<extra></extra>",
    )
