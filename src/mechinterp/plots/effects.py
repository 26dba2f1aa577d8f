"""Numbers at one moment: node effects as a heatmap, probes as bars, faithfulness against circuit size."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.core.results import recovery
from mechinterp.plots.style import DIVERGING, FAINT, HELPS, LABEL_SIZE, MUTED, NULL, base, rgba

_MOST_WORDS = 200


def node_heatmap(nodes: xr.Dataset | xr.DataArray, unit: str | None = None) -> go.Figure:
    """Effect of each node at each role or position, with its value written in; white is zero, blue helps.

    Args:
        nodes: What `patch_nodes` returned (drawn as the share of the gap recovered, or as the plain effect where the
            gap is not distinguishable from zero), or an array over layer, head and role or pos. Further dimensions
            are not allowed, `example` is averaged.
        unit: Of the values; by default what the data say.

    Raises:
        ConfigError: If there is nothing to draw over layers.
    """
    values, unit = _node_values(nodes, unit)
    rows = [dim for dim in ("layer", "head", "component") if dim in values.dims]
    columns = [dim for dim in ("role", "pos") if dim in values.dims]
    if not rows or len(columns) > 1 or set(values.dims) - {*rows, *columns}:
        raise ConfigError(f"a node heatmap is over layer, head and role or pos; got {tuple(values.dims)}")
    stacked = values.stack(node=rows).transpose("node", *columns)
    names = [_node_name(rows, key) for key in stacked["node"].values]
    across = [str(v).replace("_", " ") for v in values[columns[0]].values] if columns else ["everywhere"]
    z = np.atleast_2d(stacked.values.astype(float)).reshape(len(names), len(across))
    limit = float(np.nanmax(np.abs(z))) if np.isfinite(z).any() else 1.0
    shown = z.size <= _MOST_WORDS
    figure = base(height=96 + max(22, 34 - len(names) // 2) * len(names), margin={"l": 64, "r": 12, "t": 36, "b": 40})
    figure.add_heatmap(
        z=[[float(f"{v:.4g}") if np.isfinite(v) else None for v in line] for line in z],
        x=across,
        y=names,
        colorscale=[list(stop) for stop in DIVERGING],
        zmin=-(limit or 1.0),
        zmax=limit or 1.0,
        xgap=2,
        ygap=2,
        texttemplate="%{z:.2f}" if shown else None,
        textfont={"size": LABEL_SIZE},
        hovertemplate=f"<b>%{{y}}</b> at %{{x}}<br>%{{z:.3f}} {unit}<extra></extra>",
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 1.0, "title": {"text": unit, "side": "right"}},
    )
    figure.update_xaxes(side="top", showline=False, ticks="", tickangle=0 if len(across) < 6 else -40)
    if columns == ["pos"]:
        figure.update_xaxes(side="bottom", title={"text": "position"}, nticks=12)
    # The residual stream flows upwards, here as in the circuit's graph: layer 0 at the bottom.
    return figure.update_yaxes(showline=False, ticks="", type="category")


def _node_values(nodes: xr.Dataset | xr.DataArray, unit: str | None) -> tuple[xr.DataArray, str]:
    if isinstance(nodes, xr.DataArray):
        plain = nodes.mean("example") if "example" in nodes.dims else nodes
        return plain, unit or str(nodes.attrs.get("unit", nodes.attrs.get("metric", "effect")))
    shares = recovery(nodes)
    if bool(shares["valid"]):
        return shares["recovery"], unit or "share of the gap"
    return nodes["effect"].mean("example"), unit or str(nodes.attrs.get("metric", "effect"))


def _node_name(rows: list[str], key: object) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    marks = {"layer": "L", "head": "H", "component": ""}
    return ".".join(f"{marks[dim]}{part}" for dim, part in zip(rows, parts, strict=True))


def faithfulness_curve(
    curve: xr.DataArray | xr.Dataset,
    random: xr.DataArray | None = None,
    target: float | None = 0.9,
    fewest: int | None = None,
) -> go.Figure:
    """Share of the model's gain that circuits of each size recover, beside random circuits of the same sizes.

    Args:
        curve: `faithfulness` over `edges` (the number of edges kept); a Dataset may carry `faithfulness_se`, drawn as
            a band of plus and minus two standard errors.
        random: The same for random circuits, dimensions edges and draw: their middle 90% is the grey band, the
            median the dashed line.
        target: Marked by a horizontal line; None marks nothing.
        fewest: Size of the smallest circuit that reaches the target, marked on the curve.
    """
    kept = curve["faithfulness"] if isinstance(curve, xr.Dataset) else curve
    x, y = kept["edges"].values.astype(float), kept.values.astype(float)
    figure = base(height=360, margin={"r": 24, "t": 24})
    if random is not None:
        _add_random(figure, random)
    if target is not None:
        figure.add_hline(y=target, line={"color": FAINT, "width": 1.2})
        words = {
            "text": f"{target:.0%} of the gap",
            "font": {"size": LABEL_SIZE - 1, "color": MUTED},
            "showarrow": False,
        }
        figure.add_annotation(**words, x=1, xref="x domain", xanchor="right", y=target, yanchor="top")
    if isinstance(curve, xr.Dataset) and "faithfulness_se" in curve:
        half = 2 * np.nan_to_num(curve["faithfulness_se"].values.astype(float))
        edge = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([y + half, (y - half)[::-1]])}
        figure.add_scatter(
            **edge, fill="toself", fillcolor=rgba(HELPS, 0.15), line={"width": 0}, hoverinfo="skip", mode="lines"
        )
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name="found circuit",
        line={"color": HELPS, "width": 2.4},
        hovertemplate="%{x} edges recover %{y:.1%}<extra>best edges first</extra>",
    )
    if fewest is not None:
        at = float(np.interp(fewest, x, y))
        figure.add_scatter(x=[fewest], y=[at], mode="markers", marker={"size": 10, "color": HELPS}, hoverinfo="skip")
        right = fewest < 0.6 * x.max()
        figure.add_annotation(
            x=fewest,
            y=at,
            text=f"<b>{fewest} edges: {at:.0%}</b>",
            showarrow=False,
            xanchor="left" if right else "right",
            xshift=10 if right else -10,
            yanchor="top",
            yshift=-4,
            font={"color": HELPS},
        )
    figure.update_xaxes(title={"text": "edges kept, largest effect first"}, range=[-0.01 * x.max(), x.max() * 1.01])
    low = min(0.0, float(np.nanmin(y)))
    high = max(1.0, float(np.nanmax(y)))
    return figure.update_yaxes(
        title={"text": "faithfulness"}, tickformat=".0%", range=[low - 0.04 * (high - low), high + 0.06 * (high - low)]
    )


def _add_random(figure: go.Figure, random: xr.DataArray) -> None:
    """Random circuits: a grey band of their middle 90%, dashed at the median, or one mark where there is one size."""
    low, middle, high = (random.quantile(q, "draw").values.reshape(-1).astype(float) for q in (0.05, 0.5, 0.95))
    x = np.atleast_1d(random["edges"].values.astype(float))
    grey = {"color": NULL, "dash": "dash", "width": 1.6}
    hover = "%{x} edges drawn at random: %{y:.1%}<extra>median</extra>"
    if x.size == 1:
        bar = {
            "symmetric": False,
            "array": high - middle,
            "arrayminus": middle - low,
            "color": NULL,
            "thickness": 6,
            "width": 0,
        }
        figure.add_scatter(
            x=x, y=middle, mode="markers", marker={"color": NULL, "size": 8}, error_y=bar, hovertemplate=hover
        )
    else:
        edge = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])}
        figure.add_scatter(
            **edge, fill="toself", fillcolor=rgba(NULL, 0.2), line={"width": 0}, hoverinfo="skip", mode="lines"
        )
        figure.add_scatter(x=x, y=middle, mode="lines", line=grey, hovertemplate=hover, name="random circuits")
    at = int(np.argmin(np.abs(x - 0.62 * x.max())))
    words = {"text": "random circuits", "font": {"size": LABEL_SIZE, "color": MUTED}, "showarrow": False}
    figure.add_annotation(
        **words, x=x[at], y=middle[at], xanchor="left", xshift=8, yanchor="top" if x.size > 1 else "middle"
    )
