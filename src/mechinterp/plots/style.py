"""The one visual language of all figures: colours, fonts, axes, labels, bands.

Nothing here touches plotly's global state: `base` hands a template to each figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from scipy.optimize import isotonic_regression

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1f2933"
MUTED = "#6b7280"
FAINT = "#c3c9d1"
GRID = "#eceff2"
PAPER = "#ffffff"
NULL = "#8a8f98"
HELPS = "#0072b2"
HURTS = "#c8500a"
# Okabe and Ito's colours, distinct for every common colour vision; yellow left out (too light on white).
COLOURS = ("#0072b2", "#c8500a", "#00805e", "#a8568a", "#b07d00", "#3d8fc4", "#5b4ba0", "#5c5c5c")
DIVERGING = ((0.0, "#a63603"), (0.25, "#f0a875"), (0.5, "#fbfbfb"), (0.75, "#7fb8dc"), (1.0, "#00517f"))
LABEL_SIZE = 12


def base(height: int, margin: Mapping[str, int] | None = None) -> go.Figure:
    """An empty figure in our style, as wide as its place.

    Args:
        height: Pixels.
        margin: Pixels at `l`, `r`, `t`, `b` where they differ from the usual.
    """
    ticks = {"ticks": "outside", "tickcolor": FAINT, "ticklen": 4}
    axis = {"showline": True, "linecolor": FAINT, "zeroline": False, **ticks}
    title = {"standoff": 8, "font": {"size": 13, "color": MUTED}}
    template = go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(COLOURS),
            "xaxis": {**axis, "showgrid": False, "title": title},
            "yaxis": {**axis, "gridcolor": GRID, "title": title},
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "font": {"family": FONT, "color": INK}},
            "showlegend": False,
            "hovermode": "closest",
        }
    )
    figure = go.Figure(layout={"template": template, "height": height, "autosize": True})
    return figure.update_layout(margin={"l": 56, "r": 16, "t": 16, "b": 48, **(margin or {})})


def rgba(colour: str, opacity: float) -> str:
    """A `#rrggbb` colour with an opacity.

    >>> rgba("#0072b2", 0.5)
    'rgba(0,114,178,0.5)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


class StepAxis:
    """A logarithmic axis of training steps that also has a place for step 0.

    Step 0 stands half as far right as the first positive step, under a tick that says 0.

    Args:
        steps: The steps to be drawn.

    >>> [float(x) for x in StepAxis([0, 10, 100])([0, 10, 100])]
    [5.0, 10.0, 100.0]
    """

    def __init__(self, steps: Sequence[float] | np.ndarray) -> None:
        values = np.asarray(steps, dtype=float)
        positive = values[values > 0]
        self.first = float(positive.min()) if positive.size else 1.0
        self.last = float(positive.max()) if positive.size else 1.0
        self.has_zero = bool((values <= 0).any())

    def __call__(self, steps: Sequence[float] | np.ndarray) -> np.ndarray:
        """Where each step stands."""
        values = np.asarray(steps, dtype=float)
        return np.where(values > 0, np.maximum(values, self.first / 2), self.first / 2)

    def fraction(self, step: float) -> float:
        """How far along the axis a step stands, 0 to 1."""
        low, high = self.range
        return float((np.log10(self([step])[0]) - low) / (high - low))

    @property
    def range(self) -> tuple[float, float]:
        """Ends of the axis, in powers of ten."""
        low = np.log10(self.first / 2 if self.has_zero else self.first)
        high = np.log10(max(self.last, self.first * 2))
        pad = 0.015 * (high - low)
        return float(low - pad), float(high + pad)

    def layout(self, title: str = "training step") -> dict:
        """Settings of the plotly axis: ticks at 1, 2, 5 x powers of ten, thinned to what fits a narrow window."""
        low, high = self.range
        decades = high - low
        leads = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
        ticks = [m * 10.0**e for e in range(-1, 9) for m in leads if self.first <= m * 10.0**e <= self.last * 1.001]
        # The end of training is always worth a tick, unless one stands right beside it.
        ticks = [t for t in ticks if np.log10(self.last / t) > 0.09 * decades] + [self.last]
        values, text = list(ticks), [_short(t) for t in ticks]
        if self.has_zero:
            values, text = [self.first / 2, *values], ["0", *text]
        shown = {"tickmode": "array", "tickvals": values, "ticktext": text, "tickangle": 0}
        return {"type": "log", "range": [low, high], "title": {"text": title}, **shown}


def _short(step: float) -> str:
    """A step's number in few letters, exactly."""
    if step >= 10_000 and step % 1000 == 0:
        return f"{step / 1000:g}k"
    return f"{step:g}"


def add_line(
    figure: go.Figure,
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    colour: str,
    se: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    width: float = 2.2,
    row: int | None = None,
    unit: str = "",
) -> None:
    """A line with its band of plus and minus two standard errors beneath.

    Args:
        figure: Gets the traces.
        x: Where the points stand.
        y: Their heights.
        name: Shown when pointed at.
        colour: `#rrggbb`.
        se: Standard error of each height; None or not finite draws no band there.
        steps: What to name the points when pointed at, if not `x` itself.
        width: Of the line, in pixels.
        row: Row of the subplot, counted from 1.
        unit: Follows the value when pointed at.
    """
    place = {} if row is None else {"row": row, "col": 1}
    if se is not None and np.isfinite(se).any():
        half = 2 * np.nan_to_num(np.asarray(se, dtype=float))
        edge = np.concatenate([y + half, (y - half)[::-1]])
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=_trim(edge),
            fill="toself",
            fillcolor=rgba(colour, 0.15),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            **place,
        )
    figure.add_scatter(
        x=x,
        y=_trim(y),
        mode="lines",
        name=name,
        line={"color": colour, "width": width},
        customdata=x if steps is None else np.asarray(steps),
        hovertemplate=f"<b>{name}</b><br>step %{{customdata}}: %{{y:.3g}}{' ' + unit if unit else ''}<extra></extra>",
        **place,
    )


def _trim(values: np.ndarray) -> list[float | None]:
    """Five significant digits, None for gaps: what a screen can show, in a fraction of the text."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def add_end_labels(
    figure: go.Figure,
    labels: Sequence[tuple[float, str, str]],
    span: tuple[float, float],
    height: float,
    row: int | None = None,
) -> None:
    """Words at the right end of lines, moved apart where they would overlap.

    Args:
        figure: Gets the annotations.
        labels: (height of the line's end, words, colour) of each line.
        span: Lower and upper end of the vertical axis.
        height: Of the plot area, in pixels.
        row: Row of the subplot, counted from 1.
    """
    finite = [item for item in labels if np.isfinite(item[0])]
    if not finite:
        return
    gap = (LABEL_SIZE + 3) * (span[1] - span[0]) / height
    for (_, words, colour), y in zip(finite, spread([item[0] for item in finite], gap, *span), strict=True):
        write(figure, words, colour, LABEL_SIZE, x=1, y=y, **_across(row), xanchor="left", xshift=6)


def spread(values: Sequence[float], gap: float, low: float = -np.inf, high: float = np.inf) -> list[float]:
    """Move values apart to at least `gap`, in order, as little as possible (least squares), within limits.

    >>> spread([1.0, 0.0, 1.0], 0.5)
    [0.75, 0.0, 1.25]
    >>> spread([0.0, 0.0], 0.5, low=0.0)
    [0.0, 0.5]
    """
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    steps = gap * np.arange(len(values))
    moved = isotonic_regression(np.asarray(values, dtype=float)[order] - steps).x
    result = np.empty(len(values))
    # Least squares within limits is the unlimited solution, clipped. Too many values for the place overflow upwards.
    result[order] = np.maximum(np.minimum(moved, high - steps[-1]), low) + steps
    return [float(v) for v in result]


def add_null(
    figure: go.Figure,
    low: float,
    high: float,
    words: str | None = None,
    row: int | None = None,
    line: float | None = None,
) -> None:
    """A null as a grey band across the figure with a dashed line: what chance gives.

    Args:
        figure: Gets the band.
        low: Lower end of the band.
        high: Upper end; equal ends draw the line alone.
        words: Written at the left above the line.
        row: Row of the subplot, counted from 1.
        line: Height of the dashed line, if not `high`.
    """
    across = {**_across(row), "x0": 0, "x1": 1, "layer": "below"}
    if high > low:
        figure.add_shape(type="rect", y0=low, y1=high, fillcolor=rgba(NULL, 0.16), line={"width": 0}, **across)
    at = high if line is None else line
    figure.add_shape(type="line", y0=at, y1=at, line={"color": NULL, "width": 1.4, "dash": "dash"}, **across)
    if words:
        place = {"x": 0, "y": max(at, high), "xanchor": "left", "yanchor": "bottom", "xshift": 4}
        write(figure, words, size=LABEL_SIZE - 1, **_across(row), **place)


def write(figure: go.Figure, words: str, colour: str = MUTED, size: float = LABEL_SIZE, **place: object) -> None:
    """Words, without an arrow; `place` as plotly's annotations take it."""
    font = {"size": size, "color": colour}
    figure.add_annotation(text=words, showarrow=False, align="left", font=font, **place)


def add_title(figure: go.Figure, words: str, row: int = 1, lift: int = 4) -> None:
    """The title of a subplot, at the left above it."""
    place = {**_across(row), "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "yshift": lift}
    write(figure, words, INK, 13, **{**place, "yref": f"{place['yref']} domain"})


def whiskers(middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict:
    """Error bars from low to high; none where the interval is not finite."""
    up, down = np.where(np.isfinite(high), high - middle, 0.0), np.where(np.isfinite(low), middle - low, 0.0)
    return {"symmetric": False, "array": up, "arrayminus": down, "color": INK, "thickness": 1.5, "width": 3}


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def spaced(name: str) -> str:
    """`previous_token` -> `previous token`."""
    return name.replace("_", " ")


def _across(row: int | None) -> dict[str, str]:
    """A subplot's axes, the horizontal one as 0 to 1 from its left to its right."""
    number = "" if row in (None, 1) else str(row)
    return {"xref": f"x{number} domain", "yref": f"y{number}"}
