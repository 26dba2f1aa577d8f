"""What a paper's section on methods says of runs: task, model, training, seeds, measures, statistics, versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import xarray as xr

from mechinterp.curves import LASTS
from mechinterp.curves.passages import THRESHOLDS
from mechinterp.models import ModelConfig
from mechinterp.studies.over_seeds import SeedStudy
from mechinterp.studies.part import words
from mechinterp.studies.study import Study
from mechinterp.studies.twins import Twins

_SPLIT = (
    "The head of each type and the edges of the circuit were chosen on one set of examples and scored on another.",
    "p of a head is (1 + k) / (1 + N) for k of N untrained models whose best head scores as high; q pays for all.",
    "Circuits were compared with random circuits of the same number of edges, made of whole paths.",
    "Intervals are t for means and Fieller's for ratios of means, at 95%.",
)
_DATES = (
    "A date is the step at which half of a logistic change in ln t is done; curves with and without such changes were "
    "compared by marginal likelihood, with noise whose autocorrelation is estimated"
)


def methods_of_study(study: Study) -> list[str]:
    """Sentences on how a study of one Run was made."""
    sentences = [*_runs(study.record), *_measures(study.timeline)]
    given = study.settings
    if {"examples", "untrained", "nulls", "seed"} <= set(given):
        sentences.append(
            f"The study took {given['examples']} examples for each search, {given['examples']} others for each "
            f"judgement, {given['untrained']} untrained models, up to {given['nulls']} random circuits, and seed "
            f"{given['seed']} for all of them."
        )
    sentences += _SPLIT
    if limits := next((dict(date.limits) for date in study.onsets.values() if date.limits), None):
        sentences.append(
            f"{_DATES}; a transition has a width of at most {limits['max_width']} in ln t, is ahead by "
            f"{limits['evidence']} in -2 ln likelihood, and has {limits['min_side']} checkpoints on either side."
        )
    shares = ", ".join(f"{share:g}" for share in THRESHOLDS)
    sentences.append(
        f"Orders are of first passages of {shares} of the range, each for {LASTS:g} in ln t, and have to hold at all."
    )
    return sentences


def methods_of_seeds(study: SeedStudy) -> list[str]:
    """Sentences on how a declared study was made."""
    given, sentences = study.settings, [*_runs(study.record)]
    sentences.append(f"All was declared in a file before the first run (SHA-256 {study.sha256}).")
    quantities, measures = given.get("quantities"), study.record.get("measures")
    known = measures if isinstance(measures, Mapping) else {}
    for name, one in quantities.items() if isinstance(quantities, Mapping) else ():
        shares = ", ".join(f"{share:g}" for share in one["thresholds"])
        params = _listed(known.get(name, one["parameters"]))
        sentences.append(
            f"{words(name).capitalize()} is the measure {one['measure']} ({params}) from {one['chance']:g} "
            f"to {one['best']:g}, with first passages of {shares} of that range, for {given['hold']} checkpoints "
            f"and {given['lasts']:g} in ln t."
        )
    sentences.append(
        "Dates are geometric means with a t-interval on ln t where all runs have one, else Kaplan-Meier medians; "
        "shares have Clopper-Pearson's interval."
    )
    if given.get("orders"):
        sentences.append(
            f"Orders were tested by exact sign tests over runs that share no seed, at level {given['level']}, p-values "
            f"adjusted by {words(given['adjust'])}."
        )
    return sentences


def methods_of_twins(twins: Twins) -> list[str]:
    """Sentences on how twins were compared."""
    record = twins.attrs.get("record")
    sentences = [*_runs(record if isinstance(record, Mapping) else {})]
    changes = "; ".join(_listed(one.model_dump(mode="json")) for one in twins.declaration.interventions)
    sentences.append(
        f"Every seed was trained twice, with the same initial weights and examples; the changed runs had: {changes}."
    )
    for one in twins.declaration.milestones:
        shares = ", ".join(f"{share:g}" for share in one.thresholds)
        sentences.append(
            f"{words(one.name).capitalize()} is the measure {one.measure} ({_listed(one.what.params)}) from "
            f"{one.chance:g} to {one.best:g}, with first passages of {shares} of that range."
        )
    sentences.append(
        f"Interventions and dates were declared {twins.attrs['declared']}; shifts have a t-interval on ln t over pairs "
        "in which both runs have the date, and an exact sign test over all pairs, p-values adjusted by Holm."
    )
    return sentences


def _runs(record: Mapping[str, object]) -> Iterator[str]:
    """Task, model, training, seeds, checkpoints and versions, as far as they are recorded."""
    task, model, training = (record.get(name) for name in ("task", "model", "training"))
    if isinstance(task, Mapping):
        rest = {name: value for name, value in task.items() if name != "name"}
        yield f"Task: {task.get('name')}" + (f" ({_listed(rest)})." if rest else ".")
    if isinstance(model, Mapping):
        plain = ModelConfig.of(dict(model)).model_dump(mode="json", exclude_defaults=True)
        yield f"Model: a transformer with {_listed(plain)}; all else as ModelConfig has it."
    if isinstance(training, Mapping):
        yield f"Training: AdamW with {_listed(training)}."
    seeds, data = record.get("seeds"), record.get("data_seeds")
    if seeds:
        yield f"Seeds: {_listed(seeds)}" + (f", crossed with seeds of data {_listed(data)}." if data else ".")
    if changes := record.get("interventions"):
        yield f"Interventions in training: {_listed(changes)}."
    points = record.get("checkpoints")
    if isinstance(points, Sequence) and len(points) == 3:
        yield f"Checkpoints: {points[0]}, from step {points[1]} to {points[2]}."
    if versions := record.get("versions"):
        yield f"Versions: {_listed(versions)}."


def _measures(timeline: xr.Dataset) -> Iterator[str]:
    """The measures of a timeline, with their parameters."""
    named = []
    for values in timeline.data_vars.values():
        if name := values.attrs.get("measure"):
            params = json.loads(values.attrs.get("params", "{}"))
            named.append(f"{name} ({_listed(params)})" if params else str(name))
    if named:
        yield f"Measures at every checkpoint: {'; '.join(named)}."


def _listed(value: object) -> str:
    """Plain data in words, what is not set left out."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{words(name)} {_listed(one)}" for name, one in value.items() if one not in (None, [], {}, "")
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        numbers = list(value)
        if len(numbers) > 3 and numbers == list(range(len(numbers))):
            return f"0 to {len(numbers) - 1}"
        return ", ".join(map(_listed, numbers))
    return f"{value:g}" if isinstance(value, float) else str(value)
