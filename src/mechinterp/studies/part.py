"""What every part of a study shares: what it may use, what it returns, and how a finding is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import xarray as xr
from typing_extensions import TypedDict  # the one of `typing` cannot be validated before Python 3.12

from mechinterp.core.progress import Progress
from mechinterp.core.statistics import summary_interval
from mechinterp.models import Transformer
from mechinterp.tasks import Task
from mechinterp.timeline import Traceable

Topic = Literal["evidence", "formed", "order", "cause", "variation"]
"""What findings are about: what is there, when it came, what came first, what made it come, how dates vary."""
FindingOutcome = Literal["found", "not found", "measured", "not tested"]
"""What a finding says: more than its null, or not; a number with no null; or why there is none."""
_NOTHING = ("no", "no transition", "not shown", "mixed", "undecided", "tie", "mirage")
_UNTESTED = ("absent", "not testable")


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
    n: str
    topic: Topic
    outcome: FindingOutcome


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
        topic: What they are about.
    """

    data: Mapping[str, xr.Dataset] = field(default_factory=dict)
    rows: Sequence[Finding] = ()
    topic: Topic = "evidence"

    @property
    def findings(self) -> list[Finding]:
        """The rows with their topic."""
        return [{**one, "topic": self.topic} for one in self.rows]


def row(
    name: str,
    value: float | str | None,
    interval: tuple[float, float] | None = None,
    null: float | str | None = None,
    unit: str = "",
    where: str = "",
    note: str = "",
    *,
    n: str = "",
    outcome: FindingOutcome | None = None,
    lower_is_better: bool = False,
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
        n: How many of what it is taken over: `64 sequences`.
        outcome: Whether it is more than its null. By default: whether the interval lies beyond a null that is a number,
            on the better side; words say it themselves.
        lower_is_better: Which side that is.
    """
    low, high = interval if interval and np.isfinite(interval).all() else (None, None)
    outcome = outcome or _outcome(value, low, high, null, lower_is_better)
    return {
        "name": name, "value": value, "low": low, "high": high, "null": null, "unit": unit, "where": where,
        "note": note, "n": n, "topic": "evidence", "outcome": outcome,
    }  # fmt: skip


def _outcome(
    value: float | str | None, low: float | None, high: float | None, null: float | str | None, lower_is_better: bool
) -> FindingOutcome:
    if value is None or value in _UNTESTED:
        return "not tested"
    if isinstance(value, str):
        return "not found" if value in _NOTHING else "found"
    if low is None or high is None or null is None or isinstance(null, str):
        return "measured"
    return "found" if (high < null if lower_is_better else low > null) else "not found"


def mean_and_interval(timeline: xr.Dataset, name: str, **place: object) -> tuple[float, tuple[float, float]]:
    """Mean and 95% interval over examples of one entry of a timeline at one step."""
    mean, se, n = (float(timeline[f"{name}{part}"].sel(place)) for part in ("", "_se", "_n"))
    return mean, summary_interval(mean, se, n).ends


def sequences(timeline: xr.Dataset, name: str, **place: object) -> str:
    """Over how many sequences that mean is."""
    return f"{int(timeline[f'{name}_n'].sel(place))} sequences"


def words(name: object) -> str:
    """A name as it is printed: `previous_token` -> `previous token`."""
    return str(name).replace("_", " ")
