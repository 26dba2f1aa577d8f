"""A study over seeds as a file that is written before it runs: what is trained, dated, expected and tested."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mechinterp.core import ConfigError, RunError, Settings, checked, parse, read_file, suggest
from mechinterp.curves import LASTS
from mechinterp.curves.mirage import STEPWISE
from mechinterp.curves.passages import THRESHOLDS
from mechinterp.measures import Measure, measure
from mechinterp.tasks.base import Task, from_dict
from mechinterp.training import Job, resolve
from mechinterp.training.files import write_atomic

COPY = "declaration.toml"
Seeds = int | tuple[int, ...]


class DatedQuantity(Settings):
    """One number per checkpoint whose first passages are dated: a table `[quantities.NAME]`.

    Args:
        measure: Name of a measure.
        parameters: Of the measure.
        select: Dimension -> label: the entry of the measure's table.
        over: Dimension -> `max`, `min` or `mean`: how the other dimensions become one number.
        chance: What it is without the thing measured.
        best: What it is at its best; below `chance` for what falls.
        thresholds: Shares of the range from chance to best, as for `first_passage`.
        date_at: The threshold whose passage is *the* date; the last one by default.
    """

    measure: str
    parameters: dict[str, object] = Field(default_factory=dict)
    select: dict[str, str | int] = Field(default_factory=dict)
    over: dict[str, Literal["max", "min", "mean"]] = Field(default_factory=dict)
    chance: float
    best: float
    thresholds: tuple[float, ...] = Field(THRESHOLDS, min_length=1)
    date_at: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> DatedQuantity:
        if self.chance == self.best:
            raise ValueError(f"the range from chance={self.chance} to best={self.best} is empty")
        if wrong := [one for one in self.thresholds if not 0 < one <= 1]:
            raise ValueError(f"thresholds are shares of the range in (0, 1], got {wrong[0]}")
        if self.date_at is not None and self.date_at not in self.thresholds:
            raise ValueError(f"date_at={self.date_at} is none of the thresholds {list(self.thresholds)}")
        return self

    @property
    def date_threshold(self) -> float:
        """The threshold whose passage is the date."""
        return self.thresholds[-1] if self.date_at is None else self.date_at

    def to_measure(self) -> Measure:
        """The measure with its parameters."""
        return measure(self.measure, **self.parameters)


class DeclaredOrder(Settings):
    """Which of two quantities passes its thresholds first: a table `[[orders]]`.

    Args:
        first: A quantity.
        second: Another.
        expected: `first` declares the direction, and the test is one-sided; `either` asks only whether there is one.
    """

    first: str
    second: str
    expected: Literal["first", "either"] = "either"


class DeclaredTransition(Settings):
    """A behaviour on several yardsticks, to be a transition on every continuous one: a table `[[transitions]]`.

    Args:
        name: Of the behaviour.
        yardsticks: Quantities.
        stepwise: Those of them that jump by construction, such as accuracy.
        jump: Least change, as a share of a quantity's range.
    """

    name: str
    yardsticks: tuple[str, ...] = Field(min_length=1)
    stepwise: tuple[str, ...] = STEPWISE
    jump: float = Field(0.1, gt=0, le=1)


class Declaration(Settings):
    """What a study over seeds declares.

    Args:
        title: What it asks, in a line.
        out: Folder of the Runs and of the result.
        task: Name and settings.
        model: Settings that differ from the task's preset.
        training: Likewise.
        seeds: How many seeds from 0 on, or which.
        data_seeds: The same for the examples: every seed of weights is crossed with every one of data. Without it each
            Run has one seed for both.
        checkpoints: `all` that training keeps, `adaptive`, or a list of steps.
        examples_seed: Of the examples that are measured on, the same for all Runs.
        quantities: Name -> what is dated.
        orders: Orders that are tested.
        transitions: Behaviours that are checked for being a mirage.
        adjust: How p-values pay for the number of orders: `holm`, or `false-discovery`.
        level: Of the tests.
        hold: As for `first_passage`.
        lasts: As for `first_passage`.
    """

    title: str = ""
    out: str
    task: dict[str, object]
    model: dict[str, object] = Field(default_factory=dict)
    training: dict[str, object] = Field(default_factory=dict)
    seeds: Seeds
    data_seeds: Seeds | None = None
    checkpoints: Literal["all", "adaptive"] | tuple[int, ...] = "all"
    examples_seed: int = 0
    quantities: dict[str, DatedQuantity] = Field(min_length=1)
    orders: tuple[DeclaredOrder, ...] = ()
    transitions: tuple[DeclaredTransition, ...] = ()
    adjust: Literal["holm", "false-discovery"] = "holm"
    level: float = Field(0.05, gt=0, lt=1)
    hold: int = Field(2, ge=1)
    lasts: float = Field(LASTS, ge=0)

    @field_validator("seeds", "data_seeds")
    @classmethod
    def _several(cls, seeds: Seeds | None) -> Seeds | None:
        if seeds is not None and (len(numbers := _numbers(seeds)) < 2 or len(set(numbers)) < len(numbers)):
            raise ValueError("name two different seeds or more")
        return seeds

    @model_validator(mode="after")
    def _names(self) -> Declaration:
        for one in self.orders:
            for name in (one.first, one.second):
                self._known(name, "orders")
            if self.quantities[one.first].thresholds != self.quantities[one.second].thresholds:
                raise ValueError(f"'{one.first}' and '{one.second}' are ordered: declare the same thresholds for both")
        for change in self.transitions:
            for name in change.yardsticks:
                self._known(name, "transitions")
            if not set(change.yardsticks) - set(change.stepwise):
                raise ValueError(f"transition '{change.name}' needs a continuous yardstick, such as a loss or a margin")
        if "data_seed" in self.training:
            raise ValueError("the seeds of the data are data_seeds, not a setting of training")
        return self

    def _known(self, name: str, where: str) -> None:
        if name not in self.quantities:
            raise ValueError(f"{where}: no quantity '{name}'.{suggest(name, self.quantities)}")

    @property
    def crossed(self) -> bool:
        """Whether seeds of weights are crossed with seeds of data."""
        return self.data_seeds is not None

    def to_task(self) -> Task:
        """The task."""
        return from_dict(self.task)

    def jobs(self) -> list[Job]:
        """Every training run, by seed of weights and then of data."""
        task = self.to_task()
        model, training = resolve(task, self.model, self.training)
        out, weights = Path(self.out), _numbers(self.seeds)
        if self.data_seeds is None:
            return [Job(task, model, training, seed, out / f"seed-{seed}") for seed in weights]
        return [
            Job(task, model, training.model_copy(update={"data_seed": data}), seed, out / f"seed-{seed}-data-{data}")
            for seed in weights
            for data in _numbers(self.data_seeds)
        ]


@dataclass(frozen=True)
class DeclaredFile:
    """A declaration with the bytes that it was read from.

    Args:
        content: What the file says.
        data: Its bytes.
        path: Where it was read.
    """

    content: Declaration
    data: bytes
    path: Path

    @classmethod
    def read(cls, path: str | Path) -> DeclaredFile:
        """Read and check a file; measures, task and settings too, before anything runs.

        Raises:
            ConfigError: If it cannot be read, or a name or setting in it has no meaning.
        """
        data = read_file(path, ConfigError)
        table = parse(data, "toml", str(path), ConfigError)
        content = checked(table if isinstance(table, Mapping) else {}, Declaration, str(path), ConfigError)
        try:
            for quantity in content.quantities.values():
                quantity.to_measure()
            content.jobs()
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(content, data, Path(path))

    @property
    def sha256(self) -> str:
        """Of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def settle(self, folder: Path) -> None:
        """Put a copy into the folder of the result before anything runs.

        Raises:
            RunError: If there are results of another declaration, or of none.
        """
        copy = folder / COPY
        if copy.exists():
            other = hashlib.sha256(read_file(copy)).hexdigest()
            if other != self.sha256:
                raise RunError(
                    f"{folder} belongs to a declaration with SHA-256 {other[:12]}, and {self.path} now has "
                    f"{self.sha256[:12]}: what was declared is not changed afterwards; declare another `out`"
                )
            return
        others = [one for one in folder.iterdir() if not one.name.startswith(".") and one.name != "study"]
        if others:
            raise RunError(f"{folder} holds {others[0].name} and no declaration: a study is declared before it runs")
        write_atomic(copy, self.data)


def _numbers(seeds: Seeds) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else seeds
