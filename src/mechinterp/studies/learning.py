"""What the model learns: its loss, its distance from reference predictors, and whether accuracy alone seems to jump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from mechinterp.core import derive_seed, in_words
from mechinterp.core.statistics import Kind
from mechinterp.curves import mirage_check
from mechinterp.measures import Measure, measure
from mechinterp.studies.causal import has_pairs, node_places
from mechinterp.studies.part import Context, Finding, Part, mean_and_interval, row, sequences, words
from mechinterp.timeline import trace

LOSS_EXAMPLES = 4096
"""Sequences on which the loss at the last step is measured."""

LOSS_JUMP = 0.5
"""Least change of a loss that counts as a transition: nats; for real values a share of the untrained model's loss."""

_YARDSTICKS = ("accuracy", "loss", "margin")


def timeline(context: Context) -> Part:
    """The measures of a study at every checkpoint."""
    return Part({"timeline": trace(context.run, _measures(context), context.seed, progress=context.show)})


def loss(context: Context) -> Part:
    """The loss at the last step beside that of reference predictors."""
    task, seed = context.task, derive_seed(context.seed, "study", "predictors")
    batch = task.batch(context.examples, seed)
    losses = {words(name): task.loss(predict(batch), batch) for name, predict in task.predictors().items()}
    predictors = {name: float(values[batch.scored].mean()) for name, values in losses.items()}
    last = measure("loss", examples=LOSS_EXAMPLES)(context.model, task, seed)
    return Part(
        {"predictors": pack_predictors(predictors)},
        list(loss_rows(context.data["timeline"], task.unit, predictors, last)),
    )


def loss_rows(
    timeline: xr.Dataset,
    unit: str,
    predictors: Mapping[str, float] | None = None,
    last: xr.DataArray | None = None,
) -> Iterator[Finding]:
    """The loss at the last step of a timeline, by group, beside that at its first step.

    Args:
        timeline: Of the measure `loss`.
        unit: Of the loss.
        predictors: Reference predictor -> its loss on scored positions.
        last: The loss at the last step on many examples (group, example): the mean of a loss near 0 hangs on a few of
            them. By default the timeline's.
    """
    first, end = timeline.isel(step=0), timeline.isel(step=-1)
    rivals = ", ".join(f"{name} {cost:.3g}" for name, cost in (predictors or {}).items())
    for number, group in enumerate(timeline["group"].values):
        if last is None:
            value, interval, unresolved = *mean_and_interval(end, "loss", group=group), ""
            n = sequences(end, "loss", group=group)
        else:
            cost = Kind.of(last.attrs).interval(last.sel(group=group).values)
            value, interval, unresolved = cost.value, cost.ends, f"{cost.reason}. ".capitalize() if cost.reason else ""
            n = f"{int(last.sel(group=group).notnull().sum())} sequences"
        note = f"Reference predictors on scored positions: {rivals}." if rivals and number == 0 else ""
        untrained = float(first["loss"].sel(group=group))
        where = f"step {int(end['step'])}, fresh examples"
        note = f"{unresolved}{note}"
        title, note = f"loss on {words(group)}", f"Null: step 0. {note}".strip()
        yield row(title, value, interval, untrained, unit, where, note, n=n, lower_is_better=True)


def pack_predictors(predictors: Mapping[str, float]) -> xr.Dataset:
    """Losses of reference predictors as the data of a part."""
    return xr.Dataset({"loss": ("predictor", list(predictors.values()))}, coords={"predictor": list(predictors)})


def theory(context: Context) -> Part:
    """The reference predictor that the model is nearest to at the end, and its distance."""
    timeline = context.data["timeline"]
    if "predictor_distance" not in timeline or not timeline["predictor_distance"].isel(step=-1).notnull().all():
        return Part()
    last = timeline["predictor_distance"].isel(step=-1)
    nearest = str(last["predictor"].values[int(last.values.argmin())])
    value, interval = mean_and_interval(timeline.isel(step=-1), "predictor_distance", predictor=nearest)
    first = float(timeline["predictor_distance"].isel(step=0).sel(predictor=nearest))
    where = f"step {int(timeline['step'][-1])}, fresh examples"
    all_of_them = ", ".join(f"{words(name)} {float(last.sel(predictor=name)):.3g}" for name in last["predictor"].values)
    note = f"The nearest of all reference predictors: {all_of_them}. Null: step 0."
    title, unit = f"distance from {words(nearest)}", context.task.unit
    n = sequences(timeline.isel(step=-1), "predictor_distance", predictor=nearest)
    return Part(rows=[row(title, value, interval, first, unit, where, note, n=n, lower_is_better=True)])


def mirage(context: Context) -> Part:
    """Whether the rise is one on accuracy, loss and margin alike; for real values on the loss and its logarithm."""
    timeline = context.data["timeline"]
    group = timeline["group"].values[0]
    yardsticks = {name: timeline[name].sel(group=group, drop=True) for name in _YARDSTICKS if name in timeline}
    if "accuracy" not in yardsticks:
        loss = yardsticks["loss"]
        yardsticks = {"loss": loss, "ln loss": np.log(loss.where(loss > 0))}
    jumps = {"loss": LOSS_JUMP * (1.0 if context.task.unit == "nats" else abs(float(yardsticks["loss"][0])))}
    jumps |= {"margin": LOSS_JUMP, "ln loss": LOSS_JUMP}
    check = mirage_check(yardsticks, {name: jump for name, jump in jumps.items() if name in yardsticks})
    note = "; ".join(f"{name}: {onset}" for name, onset in check.onsets.items()) + "."
    name = f"{words(group)} on {in_words(yardsticks, 'and')} alike"
    n = f"{timeline.sizes['step']} checkpoints"
    return Part(rows=[row(name, check.verdict, where="all checkpoints", note=note, n=n)], topic="formed")


def _measures(context: Context) -> list[Measure]:
    model = context.model
    tokens = model.config.outputs == "logits"
    chosen = [measure("head_scores"), measure("loss"), *(map(measure, ("accuracy", "margin")) if tokens else ())]
    chosen += [measure("in_context_score"), measure("hidden_similarity"), measure("qk_rank")]
    if context.task.predictors():
        chosen.append(measure("predictor_distance"))
    if has_pairs(context.task, context.seed):
        at = node_places(context.task.pair(2, context.seed))
        chosen += [measure("edge_effects"), measure("node_effects", at=at)]
    return chosen
