"""What the heads do and when: their types beside untrained models, their onsets, and which type comes first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xarray as xr

from mechinterp.attribution.head_types import best_head, head_entry, head_types, heads_of_type
from mechinterp.core import derive_seed
from mechinterp.core.statistics import Null
from mechinterp.curves import Onset, first_passage, mirage_check, onset, which_first
from mechinterp.studies.learning import LOSS_JUMP
from mechinterp.studies.part import Context, Finding, Part, mean_and_interval, row, sequences, words

_FEWEST = 8
"""Fewest checkpoints of a curve that a mirage check looks at."""


def heads(context: Context) -> Part:
    """The type of each head: chosen on one batch, scored on another, beside the best heads of untrained models."""
    types = head_types(
        context.model,
        context.task,
        seed=derive_seed(context.seed, "study", "choose"),
        examples=context.examples,
        untrained=context.untrained,
        progress=lambda done: context.show("untrained models", done, context.untrained),
    )
    declared = [name for name in context.head_types if name in types["score"].values]
    types = types.assign_attrs(declared=declared)
    return Part(
        {"heads": types}, [one for name in declared for one in _type_rows(context.data["timeline"], types, name)]
    )


def onsets(context: Context) -> Part:
    """When each type of head that the model has, and the loss on the task's first group, change."""
    timeline, types = context.data["timeline"], context.data["heads"]
    group = timeline["group"].values[0]
    dates = {f"{words(name)} head": onset(type_series(timeline, name)) for name in best_of_type(types)}
    loss = timeline["loss"].sel(group=group, drop=True)
    jump = LOSS_JUMP * (1.0 if context.task.unit == "nats" else abs(float(loss[0])))
    dates[f"loss on {words(group)}"] = onset(loss, min_jump=jump)
    return Part({"onsets": pack_onsets(dates)}, [_onset_row(name, date) for name, date in dates.items()], "formed")


def mirage(context: Context) -> Part:
    """Whether each transition of a head type is one on its score and on the score's log-odds alike.

    A score is a share of attention, which a softmax makes sudden: logits that rise evenly carry it from 0 to 1 at once.
    """
    timeline, dates = context.data["timeline"], unpack_onsets(context.data["onsets"])
    rows = []
    for name in best_of_type(context.data["heads"]):
        score = type_series(timeline, name)
        inside = score.where((score > 0) & (score < 1))
        if not dates[f"{words(name)} head"].found:
            continue
        title = f"{words(name)} head on score and log-odds alike"
        if int(inside.notnull().sum()) < _FEWEST:
            note = "Scores of exactly 0 or 1 have no log-odds, and too few others are left."
            rows.append(row(title, "not testable", where="all checkpoints", note=note, n=_points(score)))
            continue
        yardsticks = {"score": score, "log-odds": np.log(inside / (1 - inside))}
        check = mirage_check(yardsticks, {"log-odds": LOSS_JUMP})
        note = "; ".join(f"{yardstick}: {date}" for yardstick, date in check.onsets.items()) + "."
        rows.append(row(title, check.verdict, where="all checkpoints", note=note, n=_points(score)))
    return Part(rows=rows, topic="formed")


def order(context: Context) -> Part:
    """Which head type passes declared thresholds first; it is an order only if it holds at all of them."""
    timeline, types = context.data["timeline"], context.data["heads"]
    passages = {
        name: first_passage(type_series(timeline, name), chance=null_of(types, name).mean, best=1.0)
        for name in best_of_type(types)
    }
    rows = []
    for a, b in pairwise(passages):
        ordering = which_first(passages[a], passages[b])
        answer = {"first": f"{words(a)} first", "second": f"{words(b)} first"}.get(ordering.order, ordering.order)
        steps = "; ".join(
            f"{share:g}: {_step(passages[a], share)} and {_step(passages[b], share)}" for share in ordering.by_threshold
        )
        note = f"First passage of shares of the range from chance to 1, at steps {steps}. One run has no p-value."
        title = f"order of {words(a)} and {words(b)}"
        rows.append(row(title, answer, where="all checkpoints", note=note, n=f"{timeline.sizes['step']} checkpoints"))
    return Part(rows=rows, topic="order")


def type_series(timeline: xr.Dataset, score: str) -> xr.DataArray:
    """The largest score of any head by step: a head chosen at the end would be dated by its own way there."""
    return timeline["head_scores"].sel(score=score, drop=True).max(["layer", "head"])


def head_series(timeline: xr.Dataset, score: str, head: str) -> xr.DataArray:
    """One head's score by step."""
    return head_entry(timeline["head_scores"].sel(score=score, drop=True), head)


def best_of_type(types: xr.Dataset) -> dict[str, str]:
    """Declared head type -> its best head; a type without a head is left out."""
    groups = {name: heads_of_type(types, name) for name in types.attrs["declared"]}
    return {name: group[0] for name, group in groups.items() if group}


def null_of(types: xr.Dataset, score: str) -> Null:
    """The largest score of each untrained model."""
    return Null(types["null"].sel(score=score).values)


def pack_onsets(dates: dict[str, Onset]) -> xr.Dataset:
    """Onsets as the data of a part."""
    return xr.Dataset(attrs={"onsets": {name: date.to_dict() for name, date in dates.items()}})


def unpack_onsets(data: xr.Dataset) -> dict[str, Onset]:
    """The reverse of `pack_onsets`."""
    return {name: Onset.from_dict(fields) for name, fields in data.attrs["onsets"].items()}


def _type_rows(timeline: xr.Dataset, types: xr.Dataset, name: str) -> list[Finding]:
    """The score of each head of a type, the best first; of the best head alone where no head is of the type."""
    group, null = heads_of_type(types, name), null_of(types, name)
    rows = []
    for head in group or [best_head(types, name)]:
        layer, number = (int(part) for part in head.removeprefix("L").split(".H"))
        last = timeline.isel(step=-1)
        score, interval = mean_and_interval(last, "head_scores", score=name, layer=layer, head=number)
        p, looked = (float(head_entry(types[part].sel(score=name), head)) for part in ("p_value", "q_value"))
        size = types.sizes["layer"] * types.sizes["head"]
        note = (
            f"Chosen on other examples; there p = {p:.2g}; by itself, for looking at {size} heads, q = {looked:.2g}. "
            f"Null: the best heads of {len(null.draws)} untrained models there, 95th percentile."
        )
        if not group:
            note += " No head stands out from untrained models: no head is of this type."
        elif head != group[0]:
            date = onset(head_series(timeline, name, head))
            note = f"It shares this type with {group[0]}. Half of its change: {date}."
        elif len(group) > 1:
            note += f" {len(group)} heads share this type: {', '.join(group)}."
        where = f"step {int(last['step'])}"
        title, n = (
            f"{words(name)} head {head}, score",
            sequences(last, "head_scores", score=name, layer=layer, head=number),
        )
        outcome = None if group else "not found"
        rows.append(row(title, score, interval, null.p95, "", where, note, n=n, outcome=outcome))
    return rows


def _points(series: xr.DataArray) -> str:
    return f"{series.sizes['step']} checkpoints"


def _onset_row(name: str, date: Onset) -> Finding:
    n = f"{date.checkpoints} checkpoints"
    if not date.found:
        return row(f"{name} appeared", "no transition", where="all checkpoints", note=f"{date.reason}.", n=n)
    note = f"Width {date.width:.2f} in ln t; interval of the fit, one run."
    if np.isfinite(date.lead):
        note += f" Curves without a transition are worse by {date.lead:.3g} in -2 ln marginal likelihood."
    if date.shape != "one transition" or date.moving:
        note = f"{str(date)[0].upper()}{str(date)[1:]}. {note}"
    return row(
        f"{name} appeared",
        date.step,
        (date.low, date.high),
        None,
        "steps",
        "all checkpoints",
        note,
        n=n,
        outcome="found",
    )


def _step(passage: xr.Dataset, share: float) -> str:
    at = passage.sel(threshold=share)
    if bool(at["censored"]):
        return f"not by {float(at['clear']):g}"
    return f"{float(at['step']):g}" + (f" (left again at {float(at['left']):g})" if bool(at["transient"]) else "")
