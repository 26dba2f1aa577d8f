"""What many runs do: how many still wait at each step, and where they differ most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.plots.style import StepAxis, add_end_labels, add_line, base, colours_of, rgba, spaced


def survival(curves: Mapping[str, xr.Dataset]) -> go.Figure:
    """The share of runs that still wait at each step, with its interval at each step alone.

    Args:
        curves: Name -> the result of `kaplan_meier`.

    Raises:
        ConfigError: If there is no curve.
    """
    if not curves:
        raise ConfigError("no survival curve to draw: they need 20 independent runs")
    steps = np.concatenate([curve["step"].values for curve in curves.values()])
    axis = StepAxis(steps)
    figure = base(height=340, margin={"r": 130})
    ends = []
    for name, colour in colours_of(list(curves)).items():
        curve = curves[name]
        at = np.concatenate([[axis.first / 2], curve["step"].values, [axis.last]])
        parts = {key: curve[key].values for key in ("waiting", "low", "high")}
        first = {"waiting": 1.0, "low": 1.0, "high": 1.0}
        rows = {key: np.concatenate([[first[key]], part, part[-1:]]) for key, part in parts.items()}
        for key in ("high", "low"):
            band = {"fill": "tonexty", "fillcolor": rgba(colour, 0.15)} if key == "low" else {}
            line = {"width": 0, "shape": "hv"}
            figure.add_scatter(x=at, y=rows[key], mode="lines", line=line, hoverinfo="skip", **band)
        figure.add_scatter(
            x=at, y=rows["waiting"], mode="lines", name=spaced(name),
            line={"color": colour, "width": 2.2, "shape": "hv"},
            hovertemplate=f"<b>{spaced(name)}</b><br>step %{{x:.0f}}: %{{y:.0%}} wait<extra></extra>",
        )  # fmt: skip
        ends.append((float(rows["waiting"][-1]), spaced(name), colour))
    add_end_labels(figure, ends, (0.0, 1.02), 276)
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", title={"text": "runs still waiting"})
    return figure.update_layout(xaxis=axis.layout())


def susceptibility(spreads: Mapping[str, xr.Dataset]) -> go.Figure:
    """Variance over seeds at each step, each curve over its own largest; a dot marks the peak.

    Args:
        spreads: Name -> the result of `variance_over_seeds`.

    Raises:
        ConfigError: If there is none.
    """
    if not spreads:
        raise ConfigError("no variance over seeds to draw: it needs 20 independent runs")
    axis = StepAxis(np.concatenate([spread["step"].values for spread in spreads.values()]))
    figure = base(height=340, margin={"r": 130})
    ends = []
    for name, colour in colours_of(list(spreads)).items():
        spread = spreads[name]
        steps, variance = spread["step"].values, spread["variance"].values
        top = float(np.nanmax(variance))
        share = variance / top if top > 0 else variance
        add_line(figure, axis(steps), share, spaced(name), colour, None, steps)
        peak = spread.attrs["peak"]
        if np.isfinite(peak):
            dot = {"color": colour, "size": 8}
            figure.add_scatter(x=axis([peak]), y=[1.0], mode="markers", marker=dot, hoverinfo="skip")
        ends.append((float(share[-1]), spaced(name), colour))
    add_end_labels(figure, ends, (0.0, 1.08), 276)
    figure.update_yaxes(range=[0, 1.08], title={"text": "variance over seeds, share of its largest"})
    return figure.update_layout(xaxis=axis.layout())
