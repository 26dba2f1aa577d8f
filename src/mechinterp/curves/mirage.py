"""Is a sudden rise in the model, or only in a yardstick that is blind until the last moment?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.curves.onset import onset
from mechinterp.curves.result import Onset

STEPWISE = ("accuracy", "exact_match")


@dataclass(frozen=True)
class MirageCheck:
    """Onsets of one behaviour on several yardsticks.

    Args:
        verdict: `transition` if it is one on every continuous yardstick, `mirage` if on a stepwise one only,
            `mixed` if on some continuous ones, else `no transition`.
        onsets: Yardstick -> its onset.
        stepwise: Which yardsticks jump by construction (accuracy, exact match).
    """

    verdict: str
    onsets: Mapping[str, Onset]
    stepwise: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {name}: {found}" for name, found in self.onsets.items())])


def mirage_check(
    series: Mapping[str, xr.DataArray],
    min_jump: Mapping[str, float] | None = None,
    stepwise: Sequence[str] = STEPWISE,
    **limits: Any,
) -> MirageCheck:
    """Date one behaviour on several yardsticks; it is a transition only if it stays narrow on the continuous ones.

    Args:
        series: Yardstick -> its values by `step`, for example accuracy, cross-entropy and margin.
        min_jump: Yardstick -> least change in its own unit; default that of `onset` for all.
        stepwise: Yardsticks that jump by construction; all others count as continuous.
        **limits: Further arguments of `onset`, the same for all.

    Raises:
        ConfigError: If no yardstick is continuous: accuracy alone cannot tell a transition from a mirage.

    Source: Schaeffer et al. 2023.
    """
    continuous = [name for name in series if name not in stepwise]
    if not continuous:
        raise ConfigError(
            "a mirage check needs a continuous yardstick, such as cross-entropy or margin, beside accuracy"
        )
    unknown = set(min_jump or ()) - set(series)
    if unknown:
        raise ConfigError(f"min_jump names {sorted(unknown)}, which are not among {sorted(series)}")
    onsets = {}
    for name, values in series.items():
        own = {"min_jump": min_jump[name]} if min_jump and name in min_jump else {}
        onsets[name] = onset(values, **{**limits, **own})
    found = [onsets[name].found for name in continuous]
    if all(found):
        verdict = "transition"
    elif any(found):
        verdict = "mixed"
    else:
        verdict = "mirage" if any(item.found for item in onsets.values()) else "no transition"
    return MirageCheck(verdict, onsets, tuple(name for name in series if name in stepwise))
