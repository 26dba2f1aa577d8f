"""What changed while the model trained: its loss, and every head's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.plots.style import (
    FAINT,
    INK,
    MUTED,
    StepAxis,
    add_end_labels,
    add_line,
    add_null,
    add_title,
    base,
    colours_of,
    rgba,
    spaced,
    write,
)


@runtime_checkable
class Dated(Protocol):
    """A date with its interval, as in the result of `onset`; `found` is False where there is none."""

    @property
    def found(self) -> bool: ...
    @property
    def step(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


Onsets = Mapping[str, Dated | float]
"""Name -> a `Dated`, or a plain step."""
_MOST_POINTS = 400


def loss_curve(
    metrics: xr.Dataset,
    onsets: Onsets | None = None,
    predictors: Mapping[str, float] | None = None,
    unit: str = "nats",
) -> go.Figure:
    """Loss over training on a logarithmic axis of steps, with onsets marked and reference predictors beside it.

    Args:
        metrics: Variables `loss` or `loss_<group>` with dimension `step`, as `Run.metrics()` gives them;
            `<name>_se`, where present, is drawn as a band of plus and minus two standard errors.
        onsets: Name -> the result of `onset`, or a plain step; marked by vertical lines and, grey, t0's interval.
            An onset that is no transition is left out.
        predictors: Name -> loss of a reference predictor; drawn as dashed grey lines.
        unit: Unit of the loss.

    Raises:
        ConfigError: If no variable is a loss over steps.
    """
    names = [str(n) for n, a in metrics.data_vars.items() if str(n).startswith("loss") and a.dims == ("step",)]
    names = [name for name in names if not name.endswith(("_se", "_n"))]
    if not names:
        present = ", ".join(map(str, metrics.data_vars)) or "none"
        raise ConfigError(f"no loss to draw: expected variables 'loss...' over 'step', got {present}")
    # A loss that is trained on one group alone equals that group's.
    groups = [name for name in names if name != "loss"]
    if any(metrics[name].equals(metrics["loss"]) for name in groups if "loss" in names):
        names = groups
    metrics = _thin(metrics)
    steps = metrics["step"].values
    axis = StepAxis(steps)
    marks, predictors = _dated(onsets), dict(predictors or {})
    figure = base(height=360 + 18 * len(marks), margin={"r": 124, "t": 14 + 18 * len(marks)})
    values = {name: metrics[name].values.astype(float) for name in names}
    top = max([np.nanmax(v) for v in values.values()] + list(predictors.values()))
    span = (min(0.0, min(float(np.nanmin(v)) for v in values.values())), 1.06 * float(top))
    labels: list[tuple[float, str, str]] = []
    for level in sorted(set(predictors.values())):
        add_null(figure, level, level)
    labels += [(level, name, MUTED) for name, level in predictors.items()]
    for name, colour in colours_of(names).items():
        words = spaced(name.removeprefix("loss_"))
        se = metrics[f"{name}_se"].values if f"{name}_se" in metrics else None
        add_line(figure, axis(steps), values[name], words, colour, se, steps, unit=unit)
        labels.append((_last(values[name]), f"<b>{words}</b>", colour))
    add_end_labels(figure, labels, span, height=298)
    _mark(figure, axis, marks)
    return figure.update_layout(
        xaxis=axis.layout(), yaxis={"range": list(span), "title": {"text": f"loss ({unit})"}}, hovermode="closest"
    )


def head_scores(
    timeline: xr.Dataset,
    name: str = "head_scores",
    chosen: Sequence[str] = (),
    nulls: Mapping[str, float | tuple[float, float]] | None = None,
    onsets: Onsets | None = None,
) -> go.Figure:
    """Every head's scores over training, one panel per score; the chosen heads in colour.

    Args:
        timeline: `<name>` with dimensions step, score, layer, head (a Timeline); `<name>_se` is drawn as a band of plus
            and minus two standard errors around chosen heads.
        name: The measure.
        chosen: Heads to highlight, as `L1.H0`; a head has one colour in all panels.
        nulls: Score -> what no finding looks like, as one value or (low, high): a grey band, its upper end dashed.
        onsets: Name -> the result of `onset`, or a plain step; marked by vertical lines.

    Raises:
        ConfigError: If the measure is not there, lacks a dimension, or a chosen head does not exist.
    """
    if name not in timeline or not {"step", "score", "layer", "head"} <= set(timeline[name].dims):
        raise ConfigError(f"no '{name}' over step, score, layer and head in this Timeline")
    data = timeline[name].transpose("score", "layer", "head", "step")
    error = timeline[f"{name}_se"].transpose(*data.dims) if f"{name}_se" in timeline else None
    heads = [(int(la), int(h), f"L{la}.H{h}") for la in data["layer"].values for h in data["head"].values]
    unknown = sorted(set(chosen) - {words for *_, words in heads})
    if unknown:
        raise ConfigError(
            f"chosen head '{unknown[0]}' does not exist: this Timeline has {heads[0][2]} to {heads[-1][2]}"
        )
    colours = colours_of(chosen)
    scores = [str(score) for score in data["score"].values]
    steps = data["step"].values
    axis = StepAxis(steps)
    panel, between, marks = 170, 42, _dated(onsets)
    top = 26 + 18 * len(marks)
    figure = base(height=top + len(scores) * (panel + between) + 6, margin={"r": 64, "t": top, "b": 48})
    inner = len(scores) * (panel + between) - between
    figure.set_subplots(
        rows=len(scores), cols=1, shared_xaxes=True, vertical_spacing=between / inner if scores[1:] else 0
    )
    for row, score in enumerate(scores, start=1):
        part = data.sel(score=score)
        span = (min(0.0, float(part.min())), max(1.0, float(part.max())) * 1.04)
        if nulls and score in nulls:
            null = nulls[score]
            low, high = null if isinstance(null, tuple) else (null, null)
            add_null(figure, low, high, "untrained model's best head" if row == 1 else None, row=row)
        for layer, head, words in sorted(heads, key=lambda item: item[2] in colours):
            values = part.sel(layer=layer, head=head).values.astype(float)
            if words in colours:
                se = None if error is None else error.sel(score=score, layer=layer, head=head).values
                add_line(figure, axis(steps), values, words, colours[words], se, steps, row=row)
            else:
                add_line(figure, axis(steps), values, words, FAINT, None, steps, width=1.2, row=row)
        ends = [(_last(part.sel(layer=la, head=h).values), w, colours[w]) for la, h, w in heads if w in colours]
        # A head that stays at the bottom of this panel is named in the panel where it rises.
        add_end_labels(figure, [end for end in ends if end[0] > 0.12 * span[1]], span, panel, row=row)
        figure.update_yaxes(range=list(span), row=row, col=1)
        figure.update_xaxes(**{**axis.layout(), "title": None, "showticklabels": row == len(scores)}, row=row, col=1)
        add_title(figure, f"<b>{spaced(score)}</b>", row)
    figure.update_xaxes(title={"text": "training step"}, row=len(scores), col=1)
    _mark(figure, axis, marks, lift=20)
    return figure


def _dated(onsets: Onsets | None) -> dict[str, tuple[float, float, float]]:
    """Name -> (step, low, high) of the onsets that are transitions, earliest first."""
    dates = {}
    for name, onset in (onsets or {}).items():
        if isinstance(onset, int | float | np.number):
            dates[name] = (float(onset),) * 3
        elif onset.found:
            dates[name] = (onset.step, onset.low, onset.high)
    return dict(sorted(dates.items(), key=lambda item: item[1][0]))


def _mark(figure: go.Figure, axis: StepAxis, marks: Mapping[str, tuple[float, float, float]], lift: int = 0) -> None:
    """Vertical lines at onsets through the whole figure, each name on its own row above it."""
    # Words stand on the side with more room, and rows are dealt so that no mark's stem crosses another's words.
    late = [item for item in marks.items() if axis.fraction(item[1][0]) > 0.5]
    early = [item for item in marks.items() if item not in late]
    for row, (words, (step, low, high)) in enumerate(late + early[::-1]):
        at, low, high = (float(v) for v in axis([step, low, high]))
        if high > low:
            wide = {"x0": low, "x1": high, "fillcolor": rgba(INK, 0.07), "line": {"width": 0}}
            figure.add_shape(type="rect", y0=0, y1=1, yref="paper", layer="below", **wide)
        line = {"color": MUTED, "width": 1.2, "dash": "dot"}
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line=line)
        shift = lift + 18 * row
        stem = {"ysizemode": "pixel", "yanchor": 1, "yref": "paper", "y0": 0, "y1": shift + 14}
        figure.add_shape(type="line", x0=at, x1=at, line=line, **stem)
        left = axis.fraction(step) > 0.5
        side = {"xanchor": "right", "xshift": -3} if left else {"xanchor": "left", "xshift": 3}
        place = {"x": np.log10(at), "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": shift - 2}
        write(figure, f"{words}: step {step:,.0f}", **place, **side)


def _thin(metrics: xr.Dataset) -> xr.Dataset:
    """At most a few hundred steps, evenly spread on the logarithmic axis; first and last stay."""
    count = metrics.sizes["step"]
    if count <= _MOST_POINTS:
        return metrics
    indices = np.unique(np.geomspace(1, count, _MOST_POINTS).round().astype(int)) - 1
    return metrics.isel(step=indices)


def _last(values: np.ndarray) -> float:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return float(finite[-1]) if finite.size else float("nan")
