"""A study as a flat table: one row per number, with its interval and what the measurement gives without a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from mechinterp.core import t_interval
from mechinterp.emergence.explain import Explained
from mechinterp.emergence.onset import Onset
from mechinterp.emergence.passages import first_passage, which_first
from mechinterp.emergence.roles import Heads, head_of

Row = dict[str, Any]


def row(
    name: str,
    value: Any,
    interval: tuple[float, float] | None = None,
    null: Any = None,
    unit: str = "",
    where: str = "",
    note: str = "",
) -> Row:
    """One finding; `where` says at which step and on which data."""
    low, high = interval if interval and np.isfinite(interval).all() else (None, None)
    return {
        "name": name, "value": value, "low": low, "high": high, "null": null, "unit": unit, "where": where, "note": note
    }  # fmt: skip


def loss_rows(line: xr.Dataset, predictors: Mapping[str, float]) -> Iterator[Row]:
    """The loss at the last step, by group, beside the untrained model's."""
    first, last = line.isel(step=0), line.isel(step=-1)
    for group in line["group"].values:
        value, interval = _at(last, "loss", group=group)
        rivals = ", ".join(f"{name} {cost:.3g}" for name, cost in predictors.items())
        note = (
            f"Reference predictors on scored positions: {rivals}."
            if rivals and group == line["group"].values[0]
            else ""
        )
        untrained = float(first["loss"].sel(group=group))
        where = f"step {int(last['step'])}, fresh examples"
        yield row(
            f"loss on {_words(group)}", value, interval, untrained, "nats", where, f"Null: step 0. {note}".strip()
        )


def head_rows(line: xr.Dataset, heads: Heads, roles: Mapping[str, str]) -> Iterator[Row]:
    """The score of each role's best head, chosen on other data."""
    last = line.isel(step=-1)
    for role, head in heads.best.items():
        score = head_of(last["head_scores"].sel(score=roles[role]), head)
        se = head_of(last["head_scores_se"].sel(score=roles[role]), head)
        n = head_of(last["head_scores_n"].sel(score=roles[role]), head)
        group = heads.by_role[role]
        note = "Chosen on other examples. Null: the best head of any untrained model."
        if len(group) > 1:
            note += f" {len(group)} heads share this role: {', '.join(group)}."
        elif not group:
            note += " No head stands out from untrained models: this role is not filled."
        interval = _t(float(score), float(se), float(n))
        name = f"{_words(role)} head {head}, score"
        yield row(name, float(score), interval, heads.nulls[roles[role]][1], "", f"step {int(last['step'])}", note)


def onset_rows(onsets: Mapping[str, Onset]) -> Iterator[Row]:
    """When each measure appeared."""
    for name, found in onsets.items():
        if found.found:
            note = f"Width {found.width:.2f} in ln t; interval of the fit, one run."
            yield row(f"{name} appeared", found.step, (found.low, found.high), None, "steps", "all checkpoints", note)
        else:
            yield row(f"{name} appeared", "no transition", None, None, "", "all checkpoints", found.reason + ".")


def order_rows(line: xr.Dataset, heads: Heads, roles: Mapping[str, str]) -> Iterator[Row]:
    """Which role's best head passed declared thresholds first; an order only if it holds at all of them."""
    filled = [role for role, group in heads.by_role.items() if group]
    for a, b in pairwise(filled):
        passed = [
            first_passage(
                head_of(line["head_scores"].sel(score=roles[role], drop=True), heads.by_role[role][0]).drop_vars(
                    ["layer", "head"], errors="ignore"
                ),
                chance=heads.nulls[roles[role]][0],
                best=1.0,
            )
            for role in (a, b)
        ]
        found = which_first(*passed)
        words = {"first": f"{_words(a)} first", "second": f"{_words(b)} first"}.get(found.order, found.order)
        steps = "; ".join(
            f"{share:g}: {_step(passed[0], share)} and {_step(passed[1], share)}" for share in found.by_threshold
        )
        note = f"First passage of shares of the range from chance to 1, at steps {steps}. One run has no p-value."
        yield row(f"order of {_words(a)} and {_words(b)}", words, None, None, "", "all checkpoints", note)


def circuit_rows(found: Explained) -> Iterator[Row]:
    """What interventions say, on held-out pairs."""
    judged = found.evaluation
    if judged is None:
        if found.curve is not None:
            note = "Clean and corrupted runs cannot be told apart: there is nothing to recover."
            yield row("circuit", "none found", note=note)
        return
    where = "last step, held-out pairs"
    share, removed = (
        (float(judged[name]), (float(judged[f"{name}_low"]), float(judged[f"{name}_high"])))
        for name in ("faithfulness", "removal_cost")
    )
    live = f"of {int(judged['live_edges'])} live edges"
    note = (
        f"Those of largest exact effect that recover 90% where they were found; the model has {int(judged['edges'])}."
    )
    yield row("edges in the circuit", int(judged["size"]), None, live, "edges", "last step", note)
    size, p_value = int(judged["live_size"]), float(judged["null_p_value"])
    p = f"random circuits of {size} edges made of whole paths, 95th percentile; p = {p_value:.2g}."
    if size == int(judged["live_edges"]):
        p += " The circuit holds every live edge, so no random circuit differs from it."
    yield row(
        "gap recovered by the circuit",
        share[0],
        share[1],
        float(judged["null_faithfulness_p95"]),
        "%",
        where,
        f"Null: {p}",
    )
    yield row("gap lost when it is removed", removed[0], removed[1], None, "%", where)


def node_rows(found: Explained, heads: Heads, seen: xr.DataArray | None) -> Iterator[Row]:
    """How much of the gap one role's best head restores alone: the causal companion of its attention score."""
    if found.nodes is None or seen is None:
        return
    gap = float((found.nodes["clean"] - found.nodes["corrupted"]).mean())
    for role, group in heads.by_role.items():
        if not group or not gap:
            continue
        chosen, effect = head_of(seen, group[0]), head_of(found.nodes["effect"], group[0])
        place = ""
        if "role" in effect.dims:
            place = str(chosen["role"].values[int(np.nan_to_num(chosen.values, nan=-np.inf).argmax())])
            effect = effect.sel(role=place)
        low, high = (end / gap for end in t_interval(effect.values))
        name = f"gap restored by {group[0]} alone" + (f" at {_words(place)}" if place else "")
        note = f"The {_words(role)} head; the place was chosen on other pairs. All its output there from the clean run."
        yield row(
            name,
            float(effect.mean()) / gap,
            (min(low, high), max(low, high)),
            0.0,
            "%",
            "last step, held-out pairs",
            note,
        )


def probe_rows(probes: Mapping[str, xr.Dataset]) -> Iterator[Row]:
    """The best layer's probe of each variable beside its nulls, and what erasing it there costs."""
    for target, found in probes.items():
        layer = int(np.nan_to_num(found["score"].values, nan=-np.inf).argmax())
        at = found.isel(layer=layer)
        null = float(np.nanmax([float(at["untrained"]), float(at["shuffled"]), float(found["majority"])]))
        number = int(found["layer"].values[layer])
        name = f"{_words(target)} read after layer {number}"
        interval = (float(at["score_low"]), float(at["score_high"]))
        where = "last step, held-out sequences"
        yield row(
            name, float(at["score"]), interval, null, "", where, "Null: the best of untrained, shuffled, constant."
        )
        cost = at["effect"].values
        if np.isfinite(cost).any():
            random = float(at["effect_random"].mean())
            name, note = f"cost of erasing {_words(target)} there", "Null: erasing as many random directions."
            yield row(name, float(np.nanmean(cost)), t_interval(cost), random, "nats", where, note)


def verdict(found: Explained, onsets: Mapping[str, Onset], heads: Heads, loss: str) -> str:
    """The outcome in a sentence or two."""
    names = [f"{_words(role)} {group[0]}" for role, group in heads.by_role.items() if group]
    dated = onsets.get(loss)
    when = f"{loss[0].upper()}{loss[1:]}: {dated}." if dated is not None else ""
    if found.evaluation is None:
        said = "No circuit is claimed: interventions find nothing that the model does here."
        return " ".join(part for part in (said, when) if part)
    judged = found.evaluation
    said = (
        f"A circuit of {int(judged['size'])} of {int(judged['live_edges'])} live edges recovers "
        f"{100 * float(judged['faithfulness']):.0f}% of the gap on held-out pairs (random circuits of its size: "
        f"{100 * float(judged['null_faithfulness_p95']):.0f}%)."
    )
    heads_said = f" Heads: {', '.join(names)}." if names else ""
    return f"{said}{heads_said} {when}".strip()


def _at(line: xr.Dataset, name: str, **place: Any) -> tuple[float, tuple[float, float]]:
    value, se, n = (float(line[f"{name}{part}"].sel(**place)) for part in ("", "_se", "_n"))
    return value, _t(value, se, n)


def _t(value: float, se: float, n: float) -> tuple[float, float]:
    half = float(stats.t.ppf(0.975, n - 1)) * se if n > 1 else np.inf
    return value - half, value + half


def _step(passed: xr.Dataset, share: float) -> str:
    step = float(passed["step"].sel(threshold=share))
    return "never" if np.isnan(step) else f"{step:g}"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
