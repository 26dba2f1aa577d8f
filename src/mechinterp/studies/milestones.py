"""Dates that are declared before the runs: which measure, what it is by chance and at best, and which share of that."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from pydantic import Field, model_validator

from mechinterp.core import ConfigError, Settings, suggest
from mechinterp.curves import LASTS, first_passage
from mechinterp.curves.passages import THRESHOLDS
from mechinterp.measures import Measure, measure


class Milestone(Settings):
    """The step at which a measure passes a share of its own range, and stays.

    Args:
        name: What it is called.
        measure: Name of a measure.
        params: Its parameters.
        at: Dimension -> label: which entry of the measure's table.
        best_of: Whether it is the largest of all entries that are left (of all heads, say); else there is one entry.
        chance: What the measure is without the thing measured.
        best: What it is at its best; below `chance` for a loss.
        thresholds: Shares of that range, in (0, 1]. With `thresholds=(1,)` the measure passes `best` itself.
        hold: As for `first_passage`.
        lasts: As for `first_passage`.

    >>> Milestone(name="loss below 2", measure="loss", at={"group": "repeat"}, chance=4.2, best=2, thresholds=[1]).at
    {'group': 'repeat'}
    """

    name: str
    measure: str
    params: dict[str, object] = Field(default_factory=dict)
    at: dict[str, str | int] = Field(default_factory=dict)
    best_of: bool = False
    chance: float
    best: float
    thresholds: tuple[float, ...] = THRESHOLDS
    hold: int = 2
    lasts: float = LASTS

    @model_validator(mode="after")
    def _fits(self) -> Milestone:
        # An empty curve is refused for the same reasons as any other.
        self.passages(xr.DataArray([0.0], dims="step", coords={"step": [0]}))
        measure(self.measure, **self.params)
        return self

    @property
    def what(self) -> Measure:
        """The measure with its parameters."""
        return measure(self.measure, **self.params)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each threshold."""
        return tuple(f"{self.name} ({threshold:g})" for threshold in self.thresholds)

    def curve(self, timeline: Mapping[str, xr.DataArray] | xr.Dataset) -> xr.DataArray:
        """The measure along training.

        Args:
            timeline: Holds the measure under its key.

        Raises:
            ConfigError: If its table has no such entry, or several are left.
        """
        values = timeline[self.what.key]
        for dim, label in self.at.items():
            if dim not in values.dims:
                raise ConfigError(
                    f"milestone '{self.name}': no dimension '{dim}'.{suggest(dim, map(str, values.dims))}"
                )
            labels = values[dim].values.tolist()
            if label not in labels:
                raise ConfigError(
                    f"milestone '{self.name}': no {dim} '{label}'.{suggest(str(label), map(str, labels))}"
                )
            values = values.sel({dim: label}, drop=True)
        left = [str(dim) for dim in values.dims if dim != "step"]
        if left and not self.best_of:
            raise ConfigError(
                f"milestone '{self.name}': say which {' and '.join(left)} with `at`, or take the best of them (best_of)"
            )
        worst = values.min(left) if self.best < self.chance else values.max(left)
        return worst if left else values

    def passages(self, curve: xr.DataArray) -> xr.Dataset:
        """When it passed each threshold: the result of `first_passage`."""
        return first_passage(curve, self.chance, self.best, self.thresholds, self.hold, self.lasts)
