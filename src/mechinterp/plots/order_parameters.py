"""Order parameters on one axis with the loss, each over its own range."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.plots.style import INK, StepAxis, add_end_labels, add_line, base, colours_of, spaced


def order_parameters(data: xr.Dataset, loss: str = "loss") -> go.Figure:
    """Every quantity over training from its least (0) to its largest value (1), the loss in black.

    What changes together moves together, whatever its unit; the range of each stands beside its name. One that does
    not move is left out.

    Args:
        data: Variables with the one dimension `step`.
        loss: The variable that is the loss.

    Raises:
        ConfigError: If no variable is one number per step, or none moves.
    """
    names = [str(name) for name, values in data.data_vars.items() if values.dims == ("step",)]
    if not names:
        raise ConfigError("no order parameter to draw: expected variables over 'step' alone")
    steps = data["step"].values
    axis = StepAxis(steps)
    rows = {name: data[name].values.astype(float) for name in names}
    moving = {name: row for name, row in rows.items() if np.isfinite(row).any() and np.nanmax(row) > np.nanmin(row)}
    if not moving:
        raise ConfigError("no order parameter moves: there is nothing to draw")
    colours = colours_of([name for name in moving if name != loss]) | {loss: INK}
    figure = base(height=420, margin={"r": 260})
    ends = []
    for name, row in moving.items():
        low, high = float(np.nanmin(row)), float(np.nanmax(row))
        share = (row - low) / (high - low)
        add_line(figure, axis(steps), share, spaced(name), colours[name], None, steps, 3.0 if name == loss else 1.8)
        # Pointed at, a line says its own value.
        hover = f"<b>{spaced(name)}</b><br>step %{{customdata[0]}}: %{{customdata[1]:.3g}}<extra></extra>"
        figure.data[-1].update(customdata=np.stack([steps, row], 1), hovertemplate=hover)
        last = share[np.isfinite(share)][-1]
        ends.append((float(last), f"{spaced(name)} ({low:.2g} to {high:.2g})", colours[name]))
    add_end_labels(figure, ends, (-0.02, 1.04), 356)
    figure.update_yaxes(range=[-0.02, 1.04], title={"text": "share of its own range"})
    return figure.update_layout(xaxis=axis.layout())
