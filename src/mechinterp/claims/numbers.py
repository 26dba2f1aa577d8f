"""From a quantity and a model to a number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import xarray as xr

from mechinterp.attribution import HEAD_TYPES
from mechinterp.claims.schema import Claim, Quantity, Select
from mechinterp.claims.subjects import Subject
from mechinterp.core import ConfigError, SiteError, UnsupportedError, suggest
from mechinterp.core.statistics import Interval, Kind
from mechinterp.curves import first_passage, leads
from mechinterp.measures import Measure, measure

UNTRAINED = 19
"""Untrained models beside one shipped model. Where a claim holds in all of them, and a trained model does not meet it,
that is a chance of 1 in 20."""


def numbers_of(claim: Claim, group: Mapping[str, Subject], alone: bool) -> list[tuple[int, Interval]]:
    """Seed and number of a group of models.

    The number is NaN, and says why, where a model cannot have it: one layer has no composition, and no edge between
    layers.

    Args:
        claim: The claim.
        group: Name of a model -> the model; all of one seed.
        alone: Whether there is no other group. Then a claim about untrained models is measured on `UNTRAINED` of them.
    """
    groups = [group]
    if claim.step == "untrained" and alone:
        groups = [{name: one.reseeded(seed) for name, one in group.items()} for seed in range(UNTRAINED)]
    numbers = []
    for group in groups:
        try:
            value = claim_number(claim, group)
        except (UnsupportedError, SiteError) as error:
            value = Interval.missing(str(error))
        numbers.append((group[claim.model].seed, value))
    return numbers


def claim_number(claim: Claim, subjects: Mapping[str, Subject]) -> Interval:
    """The number that a claim compares, for one seed.

    Args:
        claim: The claim.
        subjects: Model name -> model of that seed.
    """
    quantity, other = claim.quantity, claim.other
    subject = subjects[quantity.model]
    if quantity.passage is not None:
        return Interval.exact(_passage_number(claim, subjects))
    value = number(quantity, subject)
    if other is None:
        return value
    beside = number(other, subjects[other.model])
    return value.over(beside) if claim.relative else value.minus(beside)


def _passage_number(claim: Claim, subjects: Mapping[str, Subject]) -> float:
    """The step of a passage, or the lead of one over another, at the threshold least favourable to the claim.

    A passage that was not seen is taken where it speaks least for the claim. NaN for an order (`after`) that the last
    step does not decide.
    """
    quantity, other = claim.quantity, claim.other
    first = passages(quantity, subjects[quantity.model])
    if other is None:
        unseen = np.inf if claim.compare == "<=" else first["clear"] + 1
        return float(first["step"].fillna(unseen)[0])
    bounds = leads(first, passages(other, subjects[other.model]), relative=claim.relative)
    least, most = float(bounds["least"].min()), float(bounds["most"].max())
    if claim.compare == "after" and least <= claim.value < float(bounds["most"].min()):
        return math.nan
    return most if claim.compare == "<=" else least


def number(quantity: Quantity, subject: Subject) -> Interval:
    """A quantity of one model, with its interval over examples.

    `{induction}` is the best induction head of the trained model; for a quantity of the untrained model, the untrained
    model's own best head.
    """
    of = "untrained" if quantity.step == "untrained" else "final"
    table = subject.table(measure_of(quantity, subject, of), quantity.step, quantity.task)
    return pick(table, quantity.select, subject, of)


def passages(quantity: Quantity, subject: Subject) -> xr.Dataset:
    """The checkpoint at which a quantity first passes each threshold: the result of `first_passage`.

    Of heads of a type the best at each checkpoint counts: a head chosen at the end is dated by its own way there.

    Raises:
        UnsupportedError: If the model has no history.
    """
    how = quantity.passage
    if how is None:
        raise UnsupportedError("this claim has no passage: its quantity is a number at one step")
    history = subject.history(measure_of(quantity, subject, "final"), quantity.task)
    select = quantity.select
    if select.head_type is not None:
        select = Select(where=select.where, reduce="max")
    values = [pick(history.sel(step=step, drop=True), select, subject).value for step in history["step"]]
    series = xr.DataArray(values, dims="step", coords={"step": history["step"].values})
    return first_passage(series, how.chance, how.best, how.thresholds, how.hold, how.lasts)


def measure_of(quantity: Quantity, subject: Subject, of: str) -> Measure:
    """The quantity's measure; `{induction}` in its parameters becomes the head of that type in `of`."""
    return measure(quantity.measure, **_with_heads(quantity.params, subject, of))


def pick(table: xr.DataArray, select: Select, subject: Subject, of: str = "final") -> Interval:
    """One number out of a labelled table.

    Args:
        table: The result of a measure.
        select: Which entry, or how several become one number.
        subject: The model whose heads stand for their types.
        of: `final` or `untrained`: where the best head of a type is chosen.

    Raises:
        ConfigError: If the selection does not lead to one number.
        UnsupportedError: If this model lacks a layer, a head, or an edge that the claim names.
    """
    where = _with_heads(select.where, subject, of)
    if select.head_type is not None:
        where["layer"], where["head"] = subject.head(select.head_type, of)
    for name, label in where.items():
        if name not in table.dims:
            raise ConfigError(
                f"select.where: the measure has no dimension '{name}'.{suggest(name, map(str, table.dims))}"
            )
        known = table[name].values.tolist()
        missing = [part for part in (label if isinstance(label, list) else [label]) if part not in known]
        if missing:
            text = f"select.where: no {name} '{missing[0]}'.{suggest(str(missing[0]), map(str, known))}"
            # This model may lack the layer or head, or an edge between the best heads of their types.
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
    return Kind.of(table.attrs).interval(rows[index])


def _mean(rows: np.ndarray, axis: int) -> np.ndarray:
    """The mean of the finite values; NaN, without a warning, where there are none."""
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


def _with_heads(params: Mapping[str, object], subject: Subject, of: str) -> dict[str, object]:
    """A copy in which `{induction}` has become the best head of that type."""

    def head(match: re.Match[str]) -> str:
        if match[1] not in HEAD_TYPES:
            raise ConfigError(f"no head type '{match[1]}'.{suggest(match[1], HEAD_TYPES)}")
        layer, number = subject.head(match[1], of)
        return f"L{layer}.H{number}"

    def filled(part: object) -> object:
        if isinstance(part, list | tuple):
            return [filled(value) for value in part]
        return re.sub(r"\{(\w+)\}", head, part) if isinstance(part, str) else part

    return {name: filled(value) for name, value in params.items()}
