"""A study as a flat table: one row per number, with its interval and what the measurement gives without a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.core.statistics import ratio_of_means, summary_interval, t_interval
from mechinterp.curves.onset import Onset
from mechinterp.curves.passages import first_passage, which_first
from mechinterp.studies.causal import Explained
from mechinterp.studies.roles import Heads, head_of

Row = dict[str, Any]

CLEAR = 0.05
"""By how much a share must exceed its null to say anything, however certain the difference is."""


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


def loss_rows(line: xr.Dataset, predictors: Mapping[str, float], unit: str) -> Iterator[Row]:
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
        yield row(f"loss on {_words(group)}", value, interval, untrained, unit, where, f"Null: step 0. {note}".strip())


def theory_rows(line: xr.Dataset, unit: str) -> Iterator[Row]:
    """Which reference predictor the model ends closest to, and how far from it."""
    if "predictor_distance" not in line:
        return
    last = line["predictor_distance"].isel(step=-1)
    if not last.notnull().all():
        return
    nearest = str(last["predictor"].values[int(last.values.argmin())])
    value, interval = _at(line.isel(step=-1), "predictor_distance", predictor=nearest)
    first = line["predictor_distance"].isel(step=0).sel(predictor=nearest)
    where = f"step {int(line['step'][-1])}, fresh examples"
    rest = ", ".join(f"{_words(name)} {float(last.sel(predictor=name)):.3g}" for name in last["predictor"].values)
    note = f"The nearest of all reference predictors: {rest}. Null: step 0."
    yield row(f"distance from {_words(nearest)}", value, interval, float(first), unit, where, note)


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
        interval = summary_interval(float(score), float(se), float(n)).ends
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
        "Those of largest exact effect that recover 90% where they were found, under each corruption alone; "
        f"the model has {int(judged['edges'])}."
    )
    yield row("edges in the circuit", int(judged["live_size"]), None, live, "edges", "last step", note)
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
    yield from _corruption_rows(judged)
    chance = float(judged["null_removal_cost_p95"])
    note = "Null: removing random circuits of that size, 95th percentile."
    if not removed[0] > chance + CLEAR:
        note += " Removing almost any part breaks the behaviour, so this number does not single out the circuit."
    yield row("gap lost when it is removed", removed[0], removed[1], chance, "%", where, note)


def _corruption_rows(judged: xr.Dataset) -> Iterator[Row]:
    """Each corruption shows its own part of the circuit."""
    for kind in judged["corruption"].values if "corruption" in judged.coords else []:
        at = judged.sel(corruption=kind)
        value, low, high = (float(at[f"corruption_faithfulness{end}"]) for end in ("", "_low", "_high"))
        name = f"... on pairs of corruption {_words(kind)} alone"
        yield row(name, value, (low, high), None, "%", "last step, held-out pairs")


def node_rows(found: Explained, heads: Heads, seen: xr.DataArray | None) -> Iterator[Row]:
    """How much of the gap one role's best head restores alone: the causal companion of its attention score.

    Effect and gap are both taken over the pairs that have the place; without a gap to restore there is no row.
    """
    if found.nodes is None or seen is None:
        return
    gap = (found.nodes["clean"] - found.nodes["corrupted"]).values
    for role, group in heads.by_role.items():
        if not group:
            continue
        chosen, effect = head_of(seen, group[0]), head_of(found.nodes["effect"], group[0])
        place = ""
        if "role" in effect.dims:
            place = str(chosen["role"].values[int(np.nan_to_num(chosen.values, nan=-np.inf).argmax())])
            effect = effect.sel(role=place)
        here = np.isfinite(effect.values)
        share = ratio_of_means(effect.values[here], gap[here])
        if not share.valid:
            continue
        name = f"gap restored by {group[0]} alone" + (f" at {_words(place)}" if place else "")
        note = f"The {_words(role)} head; the place was chosen on other pairs. All its output there from the clean run."
        if not here.all():
            note += f" Over the {here.sum()} of {here.size} pairs that have this place."
        yield row(name, share.value, (share.low, share.high), None, "%", "last step, held-out pairs", note)


def probe_rows(probes: Mapping[str, xr.Dataset]) -> Iterator[Row]:
    """Each variable's probe after every layer beside its nulls, and what erasing the variable there costs."""
    where = "last step, held-out sequences"
    for target, found in probes.items():
        for layer in found["layer"].values:
            at = found.sel(layer=layer)
            null = float(np.nanmax([float(at["untrained"]), float(at["shuffled"]), float(found["majority"])]))
            interval = (float(at["score_low"]), float(at["score_high"]))
            note = "Null: the best of untrained, shuffled, constant."
            yield row(
                f"{_words(target)} read after layer {int(layer)}", float(at["score"]), interval, null, "", where, note
            )
            cost = at["effect"].values
            name = f"cost of erasing {_words(target)} after layer {int(layer)}"
            if found.attrs.get("erasure_reason") not in (None, "", "none"):
                yield row(name, "not testable", note=f"{found.attrs['erasure_reason']}.".replace("..", "."))
            elif np.isfinite(cost).any():
                excess = cost - at["effect_random"].values
                note = "Null: erasing as many random directions; the interval is of the difference, plus the null."
                random = float(np.nanmean(at["effect_random"].values))
                low, high = (end + random for end in t_interval(excess))
                yield row(name, float(np.nanmean(cost)), (low, high), random, "nats", where, note)


def verdict(found: Explained, onsets: Mapping[str, Onset], heads: Heads, loss: str) -> str:
    """The outcome in a sentence or two."""
    names = [f"{_words(role)} {group[0]}" for role, group in heads.by_role.items() if group]
    dated = onsets.get(loss)
    when = f"{loss[0].upper()}{loss[1:]}: {dated}." if dated is not None else ""
    if found.evaluation is None:
        said = "No circuit is claimed: the clean and the corrupted run cannot be told apart here."
        if found.curve is None:
            said = "No intervention was made: this task draws no pairs."
        return " ".join(part for part in (said, when) if part)
    judged = found.evaluation
    said = (
        f"A circuit of {int(judged['live_size'])} of {int(judged['live_edges'])} live edges recovers "
        f"{100 * float(judged['faithfulness']):.0f}% of the gap on held-out pairs (random circuits of its size: "
        f"{100 * float(judged['null_faithfulness_p95']):.0f}%)."
    )
    heads_said = f" Heads: {', '.join(names)}." if names else ""
    return f"{said}{heads_said} {when}".strip()


def _at(line: xr.Dataset, name: str, **place: Any) -> tuple[float, tuple[float, float]]:
    value, se, n = (float(line[f"{name}{part}"].sel(**place)) for part in ("", "_se", "_n"))
    return value, summary_interval(value, se, n).ends


def _step(passed: xr.Dataset, share: float) -> str:
    step = float(passed["step"].sel(threshold=share))
    return "never" if np.isnan(step) else f"{step:g}"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
