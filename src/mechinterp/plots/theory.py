"""What theory explains of a model while it trains: which reference predictor it resembles, and what is left over."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.plots.style import (
    COLOURS,
    MUTED,
    NULL,
    PAPER,
    StepAxis,
    add_end_labels,
    add_line,
    add_title,
    base,
    colours_of,
    rgba,
    spaced,
    write,
)

_PANEL, _GAP, _STRIP = 220, 62, 0.09
_LEAST = 1e-4


def theory(timeline: xr.Dataset, name: str = "predictor_distance", unit: str = "nats") -> go.Figure:
    """Distance to each reference predictor over training, and how much of the model the nearest one explains.

    Above: KL(model || predictor), or squared distance, one line per predictor; the strip at the foot has the colour of
    the nearest. Below: how far the model is from knowing nothing (the first predictor), split into what the nearest
    predictor explains of that and what it leaves unexplained, its own distance.

    Args:
        timeline: `<name>` with dimensions step and predictor (a Timeline of `predictor_distance`); `<name>_se` is drawn
            as a band of plus and minus two standard errors.
        name: The measure.
        unit: Of the distance.

    Raises:
        ConfigError: If the measure is not there or lacks a dimension.
    """
    if name not in timeline or set(timeline[name].dims) != {"step", "predictor"}:
        raise ConfigError(f"no '{name}' over step and predictor in this Timeline")
    data = timeline[name].transpose("predictor", "step")
    error = timeline[f"{name}_se"].transpose("predictor", "step") if f"{name}_se" in timeline else None
    names = [str(predictor) for predictor in data["predictor"].values]
    colours = colours_of(names)
    steps = data["step"].values
    axis = StepAxis(steps)
    figure = base(height=26 + 2 * _PANEL + _GAP + 48, margin={"r": 150, "t": 26, "b": 48})
    figure.set_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=_GAP / (2 * _PANEL + _GAP))
    values = np.maximum(data.values.astype(float), _LEAST)
    span = np.log10([max(np.nanmin(values), _LEAST), np.nanmax(values)])
    span = (float(span[0] - 0.16 * (span[1] - span[0]) - 0.1), float(span[1] + 0.05 * (span[1] - span[0]) + 0.05))
    for row, predictor in zip(values, names, strict=True):
        se = None if error is None else error.sel(predictor=predictor).values
        add_line(figure, axis(steps), row, spaced(predictor), colours[predictor], se, steps, row=1, unit=unit)
    ends = [(float(np.log10(row[-1])), spaced(one), colours[one]) for row, one in zip(values, names, strict=True)]
    add_end_labels(figure, ends, span, _PANEL, row=1)
    nearest = [names[i] for i in np.nan_to_num(values, nan=np.inf).argmin(0)]
    _strip(figure, axis, steps, nearest, colours)
    _split(figure, axis, steps, values, unit)
    titles = ("<b>distance to each predictor</b>, and the nearest", "<b>explained and unexplained</b>")
    for row, title in enumerate(titles, start=1):
        add_title(figure, title, row)
        shown = {**axis.layout(), "showticklabels": row == 2}
        figure.update_xaxes(**({**shown, "title": None} if row == 1 else shown), row=row, col=1)
    figure.update_yaxes(
        type="log", range=list(span), title={"text": unit}, exponentformat="power", dtick=1, row=1, col=1
    )
    figure.update_yaxes(title={"text": unit}, rangemode="tozero", row=2, col=1)
    return figure


def _strip(figure: go.Figure, axis: StepAxis, steps: np.ndarray, nearest: list[str], colours: dict[str, str]) -> None:
    """A band at the foot of the upper panel: each checkpoint's nearest predictor, from half-way to half-way."""
    at = np.log10(axis(steps))
    edges = 10 ** np.concatenate([at[:1], (at[1:] + at[:-1]) / 2, at[-1:]])
    index = 0
    for predictor, group in groupby(nearest):
        count = len(list(group))
        low, high = float(edges[index]), float(edges[index + count])
        figure.add_shape(
            type="rect", x0=low, x1=high, xref="x", y0=0, y1=_STRIP, yref="y domain", line={"width": 0},
            fillcolor=rgba(colours[predictor], 0.85),
        )  # fmt: skip
        if axis.fraction(high) - axis.fraction(low) > 0.014 * len(spaced(predictor)):
            place = {"x": float(np.log10(low * high) / 2), "xref": "x", "y": _STRIP / 2, "yref": "y domain"}
            write(figure, spaced(predictor), PAPER, 11, yanchor="middle", **place)
        index += count


def _split(figure: go.Figure, axis: StepAxis, steps: np.ndarray, values: np.ndarray, unit: str) -> None:
    """The lower panel: distance from knowing nothing, as what the nearest predictor leaves, and the rest."""
    left = np.nanmin(values, 0)
    whole = np.fmax(values[0], left)
    parts = {"unexplained": (left, NULL), "explained": (whole - left, COLOURS[2])}
    ends = []
    foot = np.zeros_like(left)
    for words, (height, colour) in parts.items():
        figure.add_scatter(
            x=axis(steps), y=height, name=words, stackgroup="parts", mode="lines", fillcolor=rgba(colour, 0.35),
            line={"color": colour, "width": 1.5}, customdata=np.stack([steps, height], 1), row=2, col=1,
            hovertemplate=f"<b>{words}</b><br>step %{{customdata[0]}}: %{{customdata[1]:.3g}} {unit}<extra></extra>",
        )  # fmt: skip
        ink = MUTED if words == "unexplained" else colour
        ends.append((float(foot[-1] + height[-1] / 2), f"<b>{words}</b> {height[-1]:.2g}", ink))
        foot = foot + height
    add_end_labels(figure, ends, (0.0, float(whole.max()) * 1.05), _PANEL, row=2)
