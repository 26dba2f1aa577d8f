"""What every part of a study shares: what it may use, what it returns, and how a finding is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from typing_extensions import TypedDict  # the one of `typing` cannot be validated before Python 3.12

from mechinterp.core.progress import Progress
from mechinterp.core.statistics import summary_interval
from mechinterp.models import Transformer
from mechinterp.tasks import Task
from mechinterp.timeline import Traceable


class Finding(TypedDict):
    """One row of a study's table of numbers; see `row`."""

    name: str
    value: int | float | str | None
    low: float | None
    high: float | None
    null: int | float | str | None
    unit: str
    where: str
    note: str


CLEAR = 0.05
"""By how much a share must exceed its null to say anything, however certain the difference is."""


@dataclass(frozen=True, eq=False)
class Context:
    """What a part of a study may use.

    Args:
        run: The Run.
        model: The model at its last step.
        task: What it is trained on.
        seed: Of all examples and nulls.
        examples: Pairs or sequences per batch.
        untrained: Number of untrained models in a null.
        nulls: Number of random circuits in a null.
        head_types: The declared head types.
        show: Called with (what, done, total).
        data: Results of earlier parts, by name.
    """

    run: Traceable
    model: Transformer
    task: Task
    seed: int
    examples: int
    untrained: int
    nulls: int
    head_types: Sequence[str]
    show: Progress
    data: Mapping[str, xr.Dataset]


@dataclass(frozen=True, eq=False)
class Part:
    """What a part of a study returns.

    Args:
        data: Name -> labelled numbers. Names are unique in a study and name the files; attributes are plain data.
        rows: Findings, in the form of `row`.
    """

    data: Mapping[str, xr.Dataset] = field(default_factory=dict)
    rows: Sequence[Finding] = ()


def row(
    name: str,
    value: float | str | None,
    interval: tuple[float, float] | None = None,
    null: float | str | None = None,
    unit: str = "",
    where: str = "",
    note: str = "",
) -> Finding:
    """One finding.

    Args:
        name: What is measured.
        value: A number, or words; None where it could not be measured.
        interval: Its 95% interval; left out where it is not finite.
        null: What the measurement gives where there is nothing to find.
        unit: Of value, interval and null; `%` for shares.
        where: At which step and on which data.
        note: What else a reader must know.
    """
    low, high = interval if interval and np.isfinite(interval).all() else (None, None)
    return {
        "name": name, "value": value, "low": low, "high": high, "null": null, "unit": unit, "where": where, "note": note
    }  # fmt: skip


def mean_and_interval(timeline: xr.Dataset, name: str, **place: object) -> tuple[float, tuple[float, float]]:
    """Mean and 95% interval over examples of one entry of a timeline at one step."""
    mean, se, n = (float(timeline[f"{name}{part}"].sel(place)) for part in ("", "_se", "_n"))
    return mean, summary_interval(mean, se, n).ends


def words(name: object) -> str:
    """A name as it is printed: `previous_token` -> `previous token`."""
    return str(name).replace("_", " ")
