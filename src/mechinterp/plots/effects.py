"""Numbers at one moment: node effects as a heatmap, probes as bars, faithfulness against circuit size."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.core.results import recovery
from mechinterp.plots.style import (
    DIVERGING,
    FAINT,
    HELPS,
    INK,
    LABEL_SIZE,
    MUTED,
    NULL,
    PAPER,
    base,
    rgba,
    whiskers,
    write,
)

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
    across = [str(v).replace("_", "<br>") for v in values[columns[0]].values] if columns else ["everywhere"]
    z = np.atleast_2d(stacked.values.astype(float)).reshape(len(names), len(across))
    limit = float(np.nanmax(np.abs(z))) if np.isfinite(z).any() else 1.0
    shown = z.size <= _MOST_WORDS
    top = 64 if shown else 16
    figure = base(
        height=top + 16 + max(22, 34 - len(names) // 2) * len(names), margin={"l": 64, "r": 4, "t": top, "b": 16}
    )
    figure.add_heatmap(
        z=[[float(f"{v:.4g}") if np.isfinite(v) else None for v in row] for row in z],
        x=across,
        y=names,
        colorscale=[list(stop) for stop in DIVERGING],
        zmin=-(limit or 1.0),
        zmax=limit or 1.0,
        xgap=2,
        ygap=2,
        hovertemplate=f"<b>%{{y}}</b> at %{{x}}<br>%{{z:.3f}} {unit}<extra></extra>",
        # Where every cell has its value written in, a colour bar would only take room.
        showscale=not shown,
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 1.0, "title": {"text": unit, "side": "right"}},
    )
    figure.update_xaxes(side="top", showline=False, ticks="", tickangle=0 if len(across) < 7 else -40)
    if shown:
        _write_values(figure, z, across, names, limit)
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom"}
        write(figure, f"each cell: {unit}", **place, yshift=42)
    if columns == ["pos"]:
        figure.update_xaxes(side="bottom", title={"text": "position"}, nticks=12).update_layout(margin={"b": 48})
    # The residual stream flows upwards, here as in the circuit's graph: layer 0 at the bottom.
    return figure.update_yaxes(showline=False, ticks="", type="category")


def _write_values(figure: go.Figure, z: np.ndarray, across: list[str], names: list[str], limit: float) -> None:
    """Every cell's value, dark on light and light on dark; plotly's own choice is grey on grey in between."""
    cells = [(x, y, z[i, j]) for i, y in enumerate(names) for j, x in enumerate(across)]
    figure.add_scatter(
        x=[x for x, *_ in cells],
        y=[y for _, y, _ in cells],
        text=[f"{value:.2f}".replace("-0.00", "0.00") if np.isfinite(value) else "" for *_, value in cells],
        mode="text",
        textfont={"size": LABEL_SIZE, "color": [PAPER if abs(value) > 0.72 * limit else INK for *_, value in cells]},
        hoverinfo="skip",
    )


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
    curve: xr.Dataset,
    random: xr.Dataset | xr.DataArray | None = None,
    target: float | None = 0.9,
    fewest: int | None = None,
) -> go.Figure:
    """Share of the model's gain that circuits of each size recover, beside random circuits.

    Args:
        curve: `faithfulness` over k, as `evaluation.curve` gives it: the k edges of largest effect. Where it has
            `size`, the edges that remain on whole paths, that is the horizontal axis.
        random: What `evaluate` returned: its circuit is drawn as a point with its interval, its random circuits as
            grey strokes. Or the faithfulness of random circuits, dimensions k and null: their middle 90% is a grey
            band, the median a dashed line.
        target: Marked by a horizontal line; None marks nothing.
        fewest: The smallest k that reaches the target, marked on the curve.

    Raises:
        ConfigError: If there is no `faithfulness` over k.
    """
    if "faithfulness" not in curve or curve["faithfulness"].dims != ("k",):
        raise ConfigError("no 'faithfulness' over 'k': expected what `evaluation.curve` returned")
    x = (curve["size"] if "size" in curve else curve["k"]).values.astype(float)
    y = curve["faithfulness"].values.astype(float)
    figure = base(height=380, margin={"l": 64, "r": 20, "t": 28})
    if target is not None:
        figure.add_hline(y=target, line={"color": FAINT, "width": 1.2})
        write(figure, f"{target:.0%}", x=1, xref="x domain", xanchor="right", y=target, yanchor="top")
    extent = [y]
    if isinstance(random, xr.DataArray):
        _add_random_band(figure, random)
        extent.append(random.values)
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": HELPS, "width": 2.4},
        hovertemplate="%{x} edges recover %{y:.1%}<extra>largest effects first</extra>",
    )
    if fewest is not None:
        number = list(curve["k"].values).index(fewest)
        # Where the judged circuit is that very one, one mark says both.
        if not (isinstance(random, xr.Dataset) and int(random["live_size"]) == x[number]):
            _mark(figure, float(x[number]), float(y[number]), x.max())
    if isinstance(random, xr.Dataset):
        _add_circuit(figure, random, x.max())
        extent += [random["null_faithfulness"].values, np.array([float(random["faithfulness_low"])])]
    values = np.concatenate([part.ravel().astype(float) for part in extent])
    low, high = min(0.0, float(np.nanmin(values, initial=0.0))), max(1.0, float(np.nanmax(values, initial=1.0)))
    figure.update_xaxes(title={"text": "edges in the circuit"}, range=[-0.01 * x.max(), x.max() * 1.01])
    pad = [low - 0.05 * (high - low), high + 0.1 * (high - low)]
    return figure.update_yaxes(title={"text": "faithfulness"}, tickformat=".0%", range=pad)


def _mark(figure: go.Figure, size: float, share: float, end: float) -> None:
    """A point on the curve, named above the figure."""
    figure.add_scatter(x=[size], y=[share], mode="markers", marker={"size": 9, "color": HELPS}, hoverinfo="skip")
    figure.add_vline(x=size, line={"color": MUTED, "width": 1.2, "dash": "dot"}, layer="below")
    place = {"x": size, "y": 1, "yref": "y domain", "yanchor": "bottom", **_beside(size, end, 0)}
    write(figure, f"{share:.0%} with {size:.0f} edges", HELPS, **place)


def _add_circuit(figure: go.Figure, evaluation: xr.Dataset, end: float) -> None:
    """The circuit that was judged, with its interval, and as grey strokes the random circuits of its size."""
    size, value = int(evaluation["live_size"]), float(evaluation["faithfulness"])
    drawn = evaluation["null_faithfulness"].values.astype(float)
    figure.add_scatter(
        x=np.full(len(drawn), size),
        y=drawn,
        mode="markers",
        marker={"symbol": "line-ew", "size": 14, "opacity": 0.5, "line": {"color": NULL, "width": 1.5}},
        hovertemplate="random circuit of %{x} edges: %{y:.1%}<extra></extra>",
    )
    limit = float(np.nanquantile(drawn, 0.95)) if np.isfinite(drawn).any() else 0.0
    words = f"{len(drawn)} random circuits<br>95% below {limit:.0%}"
    write(figure, words, x=size, y=limit, **_beside(size, end), yanchor="middle")
    ends = (np.array([float(evaluation[f"faithfulness_{end}"])]) for end in ("low", "high"))
    figure.add_scatter(
        x=[size],
        y=[value],
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": INK},
        error_y=whiskers(np.array([value]), *ends),
        hovertemplate="the circuit, %{x} edges: %{y:.1%}<extra></extra>",
    )
    words = f"<b>the circuit, {size} edges: {value:.0%}</b>"
    write(figure, words, INK, x=size, y=value, **_beside(size, end), yanchor="top", yshift=-6)


def _add_random_band(figure: go.Figure, random: xr.DataArray) -> None:
    low, middle, high = (random.quantile(q, "null").values.astype(float) for q in (0.05, 0.5, 0.95))
    x = random["k"].values.astype(float)
    edge = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([high, low[::-1]])}
    figure.add_scatter(
        **edge, fill="toself", fillcolor=rgba(NULL, 0.2), line={"width": 0}, hoverinfo="skip", mode="lines"
    )
    figure.add_scatter(
        x=x,
        y=middle,
        mode="lines",
        line={"color": NULL, "dash": "dash", "width": 1.6},
        hovertemplate="%{x} edges drawn at random: %{y:.1%}<extra>median</extra>",
    )
    at = int(np.argmin(np.abs(x - 0.62 * x.max())))
    write(figure, "random circuits", x=x[at], y=middle[at], xanchor="left", xshift=8, yanchor="top")


def _beside(x: float, end: float, gap: int = 10) -> dict:
    """Words to the right of a point, or to the left where it stands far right."""
    right = x < 0.6 * end
    return {"xanchor": "left" if right else "right", "xshift": gap if right else -gap}
