"""The circuit as a graph: components by layer, wires as wide as their effect, over training.

The frames of the slider change nothing but each wire's width, colour and opacity, so forty checkpoints stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.circuits import Circuit, component, owners
from mechinterp.core.errors import ConfigError
from mechinterp.core.sites import Edge, Site
from mechinterp.plots.style import FAINT, HELPS, HURTS, INK, MUTED, PAPER, base, write

WIDEST = 9.0
_PORTS = {"q": -0.2, "k": 0.0, "v": 0.2}
_PORT_DROP = 0.27
_ZEROS = {
    "idle": "<br>idle: cutting it changes nothing",
    "invisible": "<br>invisible: its source is the same in both runs",
}
_BEND = np.linspace(0, 1, 11)


def circuit_graph(
    effects: xr.DataArray,
    circuit: Circuit | None = None,
    se: xr.DataArray | None = None,
    states: xr.DataArray | None = None,
    unit: str = "nats",
    most_edges: int = 90,
    most_steps: int = 40,
) -> go.Figure:
    """The model's wires, as wide as their effect; with a slider and a play button over training steps.

    Components stand by layer, inputs at the bottom and logits at the top. A head reads through its ports q, k and v.
    Blue wires help (positive effect), orange ones hurt; wires outside `circuit` are dotted. Widths share one scale
    over all steps.

    Args:
        effects: Effect of each edge: dimension edge (`L0.H2->L1.H1.k`), and step for the slider; `example` is
            averaged.
        circuit: The circuit. Its edges are always drawn, and its components outlined.
        se: Standard errors, labelled as `effects`; shown when a wire is pointed at.
        states: What an exam of single edges says of some edges (`evaluation.edge_states`); of one that is not live,
            which of the two kinds of zero its effect is, is said when it is pointed at.
        unit: Of the effects.
        most_edges: Beyond the circuit's, only the edges with the largest effect at any step are drawn.
        most_steps: At most so many places on the slider, evenly spread over the checkpoints.

    Raises:
        ConfigError: If there is no `edge` dimension, or the circuit's edges are not among those of the effects.
    """
    effects = effects.mean("example") if "example" in effects.dims else effects
    if "edge" not in effects.dims or set(effects.dims) - {"edge", "step"}:
        raise ConfigError(f"effects are over edge, or step and edge; got {tuple(effects.dims)}")
    if "step" not in effects.dims:
        effects = effects.expand_dims("step")
        se = None if se is None else se.expand_dims("step")
    effects = _thin(effects, most_steps)
    se = None if se is None else _thin(se, most_steps)
    everywhere = [Edge.parse(str(edge)) for edge in effects["edge"].values]
    if circuit is not None and (lost := sorted(circuit.edges - set(everywhere))):
        raise ConfigError(
            f"edge '{lost[0]}' of the circuit has no effect here: inputs='merged' or 'split' on both sides?"
        )
    drawn = _drawn(effects, everywhere, circuit, most_edges)
    values = effects.transpose("step", "edge").values[:, drawn].astype(float)
    errors = None if se is None else se.transpose("step", "edge").values[:, drawn].astype(float)
    edges = [everywhere[i] for i in drawn]
    steps = effects["step"].values if "step" in effects.coords else None
    scale = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0

    place = _places(everywhere)
    frames = steps if len(values) > 1 else None
    rows = max(y for _, y in place.values()) + 1
    figure = base(
        height=int(60 + 118 * rows + (0 if frames is None else 84)),
        margin={"l": 8, "r": 8, "t": 40, "b": 12 if frames is None else 84},
    )
    looks = [_looks(values[i], None if errors is None else errors[i], scale) for i in range(values.shape[0])]
    known = {} if states is None else dict(zip(states["edge"].values, states.values, strict=True))
    zeros = {str(edge): _ZEROS.get(str(state), "") for edge, state in known.items()}
    for number, edge in enumerate(edges):
        inside = circuit is None or edge in circuit
        note = "" if inside else "<br>not in the circuit"
        figure.add_trace(_wire(edge, place, inside, looks[-1][number], unit, note + zeros.get(str(edge), "")))
    _add_components(figure, place, circuit)
    if frames is not None:
        numbers = list(range(len(edges)))
        figure.frames = [
            go.Frame(name=f"{step:g}", data=look, traces=numbers) for step, look in zip(frames, looks, strict=True)
        ]
        _add_slider(figure, [f"{step:g}" for step in frames])
    _add_key(figure, scale, unit, circuit)
    wide = max(*(abs(x) for x, _ in place.values()), 0.9) + 0.62  # a lone head keeps its ports beside it
    figure.update_xaxes(visible=False, range=[-wide, wide], fixedrange=True)
    return figure.update_yaxes(visible=False, range=[-0.3, rows - 0.7], fixedrange=True)


def _thin(data: xr.DataArray, most: int) -> xr.DataArray:
    count = data.sizes["step"]
    return data if count <= most else data.isel(step=np.unique(np.linspace(0, count - 1, most).round().astype(int)))


def _drawn(effects: xr.DataArray, edges: Sequence[Edge], circuit: Circuit | None, most: int) -> list[int]:
    """Numbers of the edges to draw, weakest first so that strong wires lie on top."""
    peak = np.nan_to_num(np.abs(effects.values)).max(axis=effects.get_axis_num("step"))
    inside = np.array([circuit is not None and edge in circuit for edge in edges])
    order = np.argsort(peak, kind="stable")
    strong = set(order[-most:].tolist()) if most else set()
    floor = 0.01 * float(peak.max(initial=0.0))
    return [int(i) for i in order if inside[i] or (i in strong and peak[i] > floor)]


def _places(edges: Sequence[Edge]) -> dict[Site, tuple[float, float]]:
    """Where each component stands: x centred on 0 with unit distance, y the row from the bottom."""
    parts = sorted({part for edge in edges for part in (component(edge.source), *owners(edge.reader))})
    rows: dict[float, list[Site]] = {}
    for part in parts:
        if part.layer is None:
            level = float("inf") if part.kind == "logits" else -1.0
        else:
            level = part.layer + (0.5 if part.kind == "mlp" else 0.0)
        rows.setdefault(level, []).append(part)
    places = {}
    for y, level in enumerate(sorted(rows)):
        for i, part in enumerate(rows[level]):
            places[part] = (i - (len(rows[level]) - 1) / 2, float(y))
    return places


def _looks(values: np.ndarray, errors: np.ndarray | None, scale: float) -> list[dict]:
    """What changes from step to step: width, colour, opacity, and the words shown when pointed at."""
    shapes = []
    for i, value in enumerate(values):
        share = 0.0 if not np.isfinite(value) or not scale else abs(value) / scale
        words = "not measured" if not np.isfinite(value) else f"{value:+.3g}"
        if errors is not None and np.isfinite(errors[i]):
            words += f" ± {2 * errors[i]:.2g}"
        line = {"width": round(0.4 + (WIDEST - 0.4) * share, 2), "color": HURTS if value < 0 else HELPS}
        shapes.append(
            {"type": "scatter", "line": line, "opacity": round(0.14 + 0.76 * min(1.0, 5 * share), 2), "meta": words}
        )
    return shapes


def _wire(
    edge: Edge, place: dict[Site, tuple[float, float]], inside: bool, look: dict, unit: str, note: str
) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for owner in owners(edge.reader):  # to each of the heads that share what it reads; None lifts the pen
        xs, ys = _path(edge, owner, place)
        x, y = [*x, None, *xs] if x else [*xs], [*y, None, *ys] if y else [*ys]
    name = str(edge).replace("->", " → ")
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        opacity=look["opacity"],
        meta=look["meta"],
        line={**look["line"], "dash": "solid" if inside else "dot", "shape": "spline"},
        hovertemplate=f"<b>{name}</b><br>%{{meta}} {unit}{note}<extra></extra>",
    )


def _path(edge: Edge, owner: Site, place: dict[Site, tuple[float, float]]) -> tuple[list[float], list[float]]:
    """From the source's top to a reading component's port, upright at both ends, through the gaps of the rows between.

    A wire that ran behind a component would look as if it ended there.
    """
    (x0, y0), (x1, y1) = place[component(edge.source)], place[owner]
    points = [(x0, y0 + 0.17)]
    for row in range(int(y0) + 1, int(y1)):
        wanted = x0 + (x1 - x0) * (row - y0) / (y1 - y0)
        taken = [x for x, y in place.values() if y == row]
        gaps = [min(taken) - 0.5, *(x + 0.5 for x in taken)]
        gap = min(gaps, key=lambda x: (abs(x - wanted), -abs(x)))
        # Side by side through a gap, in the order in which they leave it.
        port = _PORTS.get(edge.reader.kind, 0.0)
        points.append((gap + 0.14 * float(np.tanh(x1 + port - gap)), float(row)))
    at_port = edge.reader.kind in _PORTS
    points.append((x1 + _PORTS.get(edge.reader.kind, 0.0), y1 - (_PORT_DROP + 0.06 if at_port else 0.17)))
    xs: list[float] = []
    ys: list[float] = []
    for (ax, ay), (bx, by) in pairwise(points):
        # A cubic Bezier curve whose inner control points lie straight above and below its ends.
        xs += np.round(ax + (bx - ax) * (3 * _BEND**2 - 2 * _BEND**3), 3).tolist()
        ys += np.round(ay + (by - ay) * (1.5 * _BEND - 1.5 * _BEND**2 + _BEND**3), 3).tolist()
    return xs, ys


def _add_components(figure: go.Figure, place: dict[Site, tuple[float, float]], circuit: Circuit | None) -> None:
    used = set(place) if circuit is None else set(circuit.components)
    heads = [part for part in place if part.head is not None]
    ports = [(place[part][0] + dx, place[part][1] - _PORT_DROP, name) for part in heads for name, dx in _PORTS.items()]
    if ports:
        figure.add_scatter(
            x=[x for x, *_ in ports],
            y=[y for _, y, _ in ports],
            text=[name for *_, name in ports],
            mode="markers+text",
            marker={"size": 14, "color": PAPER, "line": {"color": FAINT, "width": 1}},
            textfont={"size": 10, "color": MUTED},
            hoverinfo="skip",
            cliponaxis=False,
        )
    parts = sorted(place)
    figure.add_scatter(
        x=[place[part][0] for part in parts],
        y=[place[part][1] for part in parts],
        text=[f"<b>{part}</b>" if part in used else str(part) for part in parts],
        mode="markers+text",
        marker={
            "size": 40,
            "symbol": ["circle" if part.head is not None else "square" for part in parts],
            "color": [PAPER if part in used else "#f5f6f7" for part in parts],
            "line": {"color": [INK if part in used else FAINT for part in parts], "width": 1.6},
            "opacity": 1,
        },
        textfont={"size": 11, "color": [INK if part in used else MUTED for part in parts]},
        hovertemplate=[
            "%{text}" + ("" if part in used else "<br>not in the circuit") + "<extra></extra>" for part in parts
        ],
        cliponaxis=False,
    )


def _add_slider(figure: go.Figure, names: list[str]) -> None:
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = {"fromcurrent": True, "frame": {"duration": 180, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"method": "animate", "label": name, "args": [[name], now]} for name in names]
    figure.update_layout(
        sliders=[
            {
                "active": len(names) - 1,
                "steps": steps,
                "x": 0,
                "len": 1,
                "xanchor": "left",
                "pad": {"l": 96, "r": 16, "t": 4, "b": 8},
                "currentvalue": {"prefix": "training step ", "font": {"size": 14, "color": INK}, "xanchor": "left"},
                "bgcolor": FAINT,
                "bordercolor": FAINT,
                "activebgcolor": INK,
                "tickcolor": FAINT,
                "font": {"size": 11, "color": MUTED},
                "minorticklen": 3,
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"l": 4, "t": 14},
                "bgcolor": PAPER,
                "bordercolor": FAINT,
                "buttons": [
                    {"label": "▶", "method": "animate", "args": [None, play]},
                    {"label": "❚❚", "method": "animate", "args": [[None], now]},
                ],
            }
        ],
    )


def _add_key(figure: go.Figure, scale: float, unit: str, circuit: Circuit | None) -> None:
    """One line above the graph that says what colours, dots and widths mean."""
    words = f"<span style='color:{HELPS}'><b>helps</b></span>  <span style='color:{HURTS}'><b>hurts</b></span>"
    words += f"   widest line: {scale:.3g} {unit}"
    if circuit is not None:
        words += f"<br>solid: the circuit ({len(circuit)} edges)   dotted: other wires"
    write(figure, words, x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom")
