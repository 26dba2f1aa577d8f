"""From a quantity and a model to a number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.claims.schema import ROLES, Claim, Quantity, Select
from mechinterp.claims.subjects import Subject
from mechinterp.core import ConfigError, SiteError, UnsupportedError, derive_seed, suggest
from mechinterp.core.statistics import Interval, mean_interval
from mechinterp.curves import first_passage
from mechinterp.measures import measure
from mechinterp.models import Transformer

UNTRAINED = 19
"""Untrained models that stand beside one shipped model: where a claim holds in all of them and a trained model does not
meet it, chance is 1 in 20."""


def numbers_of(
    claim: Claim, groups: Sequence[Mapping[str, Subject]], many_untrained: bool
) -> list[tuple[int, Interval]]:
    """Seed and number of each group of models.

    The number is NaN, and says why, where a model cannot have it: one layer has no composition, and no edge between
    layers.

    Args:
        claim: The claim.
        groups: Per seed, name of a model -> the model.
        many_untrained: Measure what is claimed of untrained models on `UNTRAINED` of them, not on each group's own.
    """
    if claim.step == "untrained" and many_untrained:
        groups = [{name: one.reseeded(seed) for name, one in groups[0].items()} for seed in range(UNTRAINED)]
    found = []
    for group in groups:
        try:
            number = claim_number(claim, group)
        except (UnsupportedError, SiteError) as error:
            number = Interval.missing(str(error))
        found.append((group[claim.model].seed, number))
    return found


def claim_number(claim: Claim, subjects: Mapping[str, Subject]) -> Interval:
    """What a claim compares, for one seed.

    Args:
        claim: The claim.
        subjects: Model name -> model of that seed.
    """
    quantity, other = claim.quantity, claim.other
    if quantity.passage is not None:
        return Interval.exact(_passage_number(claim, subjects))
    found = number(quantity, subjects[quantity.model])
    if other is None:
        return found
    beside = number(other, subjects[other.model])
    return found.over(beside) if claim.relative else found.minus(beside)


def _passage_number(claim: Claim, subjects: Mapping[str, Subject]) -> float:
    """The step of a passage, or the lead of one over another at the threshold least favourable to the claim."""
    quantity, other = claim.quantity, claim.other
    first = passages(quantity, subjects[quantity.model])
    if other is None:
        return float(first[0])
    second = passages(other, subjects[other.model])
    if claim.compare != "after":
        # One that never came is not infinitely late: it is later than the last step, and no more is known.
        second = np.minimum(second, _last_step(subjects[other.model]))
    with np.errstate(invalid="ignore", divide="ignore"):
        leads = second / first if claim.relative else second - first
    # Neither came: inf - inf is NaN, and so is the least.
    return float(leads.max() if claim.compare == "<=" else leads.min())


def _last_step(subject: Subject) -> int:
    return subject.run.steps[-1] if subject.run is not None else 0


def number(quantity: Quantity, subject: Subject) -> Interval:
    """A quantity of one model, with its interval over examples.

    Roles are those that heads play in the trained model; in the untrained model, its own best heads play them.
    """
    model = subject.at(quantity.step)
    cast = model if quantity.step == "untrained" else subject.final
    return pick(_measured(quantity, subject, model, cast), quantity.select, subject, cast)


def passages(quantity: Quantity, subject: Subject) -> np.ndarray:
    """The checkpoint at which a quantity first passes each threshold, infinity if it never does: `[threshold]`.

    The head that plays a role is the one that plays it at the end of training.

    Raises:
        UnsupportedError: If the model has no history.
    """
    how = quantity.passage
    if how is None or subject.run is None:
        raise UnsupportedError("this claim is about when something appeared: it needs a Run with checkpoints")
    values = []
    for step in subject.run.steps:
        model = subject.at(step)
        table = _measured(quantity, subject, model, subject.final)
        values.append(pick(table, quantity.select, subject, subject.final).value)
    series = xr.DataArray(values, dims="step", coords={"step": list(subject.run.steps)})
    found = first_passage(series, how.chance, how.best, how.thresholds, how.hold)
    return found["step"].fillna(np.inf).values


def _measured(quantity: Quantity, subject: Subject, model: Transformer, cast: Transformer) -> xr.DataArray:
    """The measure's table for a model; heads are named after the roles they play in `cast`."""
    params = _with_roles(quantity.params, subject, cast)
    wanted = measure(quantity.measure, **params)
    key = (wanted, id(model), json.dumps(quantity.task, sort_keys=True))
    if key not in subject.tables:
        task = subject.changed_task(quantity.task)
        # The model is kept beside its table: were it gone, another one could have its id.
        subject.tables[key] = (model, wanted(model, task, derive_seed(subject.seed, "claims", "examples")))
    return subject.tables[key][1]


def pick(table: xr.DataArray, select: Select, subject: Subject, model: Transformer) -> Interval:
    """One number out of a labelled table.

    Args:
        table: What a measure returned.
        select: Where to look.
        subject: Whose roles count.
        model: The model in which the heads play their roles.

    Raises:
        ConfigError: If the selection does not lead to one number.
        UnsupportedError: If it would, were the roles played by other heads.
    """
    where = _with_roles(select.where, subject, model)
    if select.role is not None:
        where["layer"], where["head"] = subject.role(model, select.role)
    for name, label in where.items():
        if name not in table.dims:
            raise ConfigError(
                f"select.where: the measure has no dimension '{name}'.{suggest(name, map(str, table.dims))}"
            )
        known = table[name].values.tolist()
        missing = [part for part in (label if isinstance(label, list) else [label]) if part not in known]
        if missing:
            text = f"select.where: no {name} '{missing[0]}'.{suggest(str(missing[0]), map(str, known))}"
            # A claim may ask for a layer, a head, or an edge between heads in their roles, that this model has not.
            other_model = name in ("layer", "head", "edge") or label != select.where.get(name)
            raise UnsupportedError(text) if other_model else ConfigError(text)
        table = table.sel({name: label})
    rest = [str(name) for name in table.dims if name != "example"]
    if rest and select.reduce == "only":
        raise ConfigError(f"select leaves dimensions {rest}: say more in where, or how to reduce them")
    if "example" not in table.dims:
        return Interval.exact(_reduced(np.atleast_1d(table.values).ravel(), select)[0])
    rows = table.transpose(*rest, "example").values.reshape(-1, table.sizes["example"]).astype(float)
    if select.reduce == "mean":
        rows = _mean(rows, 0)[None]
    means = _mean(rows, 1)
    value, index = _reduced(means, select)
    if index is None:
        return Interval.exact(value)
    return mean_interval(rows[index])


def _mean(rows: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is there; NaN, without a warning, where nothing is."""
    there = np.isfinite(rows).sum(axis)
    return np.where(there > 0, np.nansum(rows, axis), np.nan) / np.maximum(there, 1)


def _reduced(values: np.ndarray, select: Select) -> tuple[float, int | None]:
    """The number, and the entry it stands for, if it is one entry's."""
    if select.above is not None:  # reduce="count"
        return float((values >= select.above).sum()), None
    if select.reduce == "mean":
        return float(values.mean()), 0
    if np.isnan(values).any():
        return float("nan"), 0
    index = int(values.argmin() if select.reduce == "min" else values.argmax())
    return float(values[index]), index


def _with_roles(part: Any, subject: Subject, model: Transformer) -> Any:
    """A copy in which `{role}` has become the head that plays it."""
    if isinstance(part, dict):
        return {name: _with_roles(value, subject, model) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_with_roles(value, subject, model) for value in part]
    if not isinstance(part, str):
        return part

    def head(match: re.Match[str]) -> str:
        if match[1] not in ROLES:
            raise ConfigError(f"no role '{match[1]}'.{suggest(match[1], ROLES)}")
        layer, number = subject.role(model, match[1])
        return f"L{layer}.H{number}"

    return re.sub(r"\{(\w+)\}", head, part)
