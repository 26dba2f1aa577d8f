"""What linear probes can read, and whether the model uses it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from mechinterp.core.errors import ConfigError, in_words
from mechinterp.core.statistics import t_interval
from mechinterp.plots.style import HELPS, INK, LABEL_SIZE, MUTED, NULL, PAPER, add_title, base, rgba, spaced, whiskers

_NULLS = {"untrained": ("line-ns", "| untrained"), "shuffled": ("diamond-open", "◇ shuffled")}
_MAJORITY = ("circle-open", "○ constant")


def probe_bars(probes: xr.Dataset | Mapping[str, xr.Dataset]) -> go.Figure:
    """How well each variable can be read at each layer beside its nulls; below, what erasing it costs the model.

    Args:
        probes: What `probe` returned, or target -> that. Upper panel: `score` with its interval as bars, the nulls
            `untrained`, `shuffled` and `majority` as grey marks. Lower panel, where `effect` was computed: the metric
            lost by erasing the variable, its mean over examples with a t-interval, and in grey by erasing as many
            random directions.

    Raises:
        ConfigError: If a result has no `score` over layers.
    """
    results = {str(probes.attrs.get("target", "probe")): probes} if isinstance(probes, xr.Dataset) else dict(probes)
    for target, result in results.items():
        if "score" not in result or result["score"].dims != ("layer",):
            raise ConfigError(f"the probe of '{target}' has no 'score' over 'layer': expected what `probe` returned")
    parts = [result.sel(layer=[layer]) for result in results.values() for layer in result["layer"].values]
    rows = [f"{spaced(t)}<br>{_where(r, int(la))}" for t, r in results.items() for la in r["layer"].values]
    used = [part for part in parts if "effect" in part and bool(np.isfinite(part["effect"]).any())]
    panels = 2 if used else 1
    panel, between = 26 + 36 * len(rows), 104
    height = 56 + panels * panel + (panels - 1) * between + 48
    figure = base(height=height, margin={"l": 20, "r": 20, "t": 56, "b": 48})
    inner = height - 104
    figure.set_subplots(rows=panels, cols=1, vertical_spacing=between / inner if panels == 2 else 0)
    _add_scores(figure, parts, rows)
    key = "   ".join([words for _, words in _NULLS.values()] + [_MAJORITY[1]])
    scales = sorted({str(part.attrs.get("probe", "held-out score")).split(", ")[-1] for part in parts})
    add_title(figure, _title("Can be read", key), 1, 0)
    figure.update_xaxes(title={"text": f"held-out {in_words(scales)}"}, row=1, col=1)
    low = min([0.0, *(float(np.nanmin(part["score"])) for part in parts)])
    figure.update_xaxes(range=[1.04 * low, 1.04], row=1, col=1)
    if used:
        _add_effects(figure, parts, rows)
        metrics = sorted({str(part.attrs.get("metric", "metric")) for part in used})
        add_title(figure, _title("Is used", "grey: as many random directions erased"), 2, 0)
        figure.update_xaxes(title={"text": f"{in_words(metrics).replace('_', ' ')} lost by erasing it"}, row=2, col=1)
    # The first variable on top, in reading order.
    bare = {"showline": False, "showgrid": False, "ticklen": 6, "tickcolor": PAPER}
    return figure.update_yaxes(autorange="reversed", automargin=True, type="category", **bare)


def _where(result: xr.Dataset, layer: int) -> str:
    site = str(result.attrs.get("site", "resid_post"))
    return f"after layer {layer}" if site == "resid_post" else site if "." in site else f"L{layer}.{site}"


def _add_scores(figure: go.Figure, parts: list[xr.Dataset], rows: list[str]) -> None:
    score, low, high = (np.array([_one(part, name) for part in parts]) for name in ("score", "score_low", "score_high"))
    figure.add_bar(
        x=score,
        y=rows,
        orientation="h",
        width=0.56,
        marker={"color": rgba(HELPS, 0.6)},
        error_x=whiskers(score, low, high),
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    marks = {name: [_one(part, name) for part in parts] for name in _NULLS}
    looks = {**_NULLS, "majority": _MAJORITY}
    marks["majority"] = [float(part["majority"]) if "majority" in part else np.nan for part in parts]
    for name, values in marks.items():
        symbol, words = looks[name]
        line = {"width": 2.5 if symbol == "line-ns" else 1.8, "color": INK}
        figure.add_scatter(
            x=values,
            y=rows,
            mode="markers",
            marker={"symbol": symbol, "size": 20 if symbol == "line-ns" else 9, "color": INK, "line": line},
            hovertemplate=f"%{{y}}<br>{words[2:]}: %{{x:.3f}}<extra></extra>",
            row=1,
            col=1,
        )


def _add_effects(figure: go.Figure, parts: list[xr.Dataset], rows: list[str]) -> None:
    looks = (("effect", HELPS, -0.14, 0.3, "erased"), ("effect_random", NULL, 0.2, 0.2, "random directions erased"))
    for name, colour, offset, width, words in looks:
        examples = [part[name].values.ravel() if name in part else np.array([np.nan]) for part in parts]
        mean = np.array([values.mean() for values in examples])
        low, high = (np.array([t_interval(values)[i] for values in examples]) for i in (0, 1))
        figure.add_bar(
            x=mean,
            y=rows,
            orientation="h",
            width=width,
            offset=offset - width / 2,
            marker={"color": rgba(colour, 0.6)},
            error_x=whiskers(mean, low, high),
            hovertemplate=f"%{{y}}<br>{words}: %{{x:.3f}} lost<extra></extra>",
            row=2,
            col=1,
        )


def _one(part: xr.Dataset, name: str) -> float:
    return float(part[name].values.item()) if name in part else float("nan")


def _title(title: str, key: str) -> str:
    return f"<b>{title}</b><br><span style='color:{MUTED};font-size:{LABEL_SIZE}px'>{key}</span>"
