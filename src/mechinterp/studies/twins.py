"""`twins`: each seed trained plainly and with interventions, and by how much these move dates declared beforehand."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from pydantic import Field, field_validator

from mechinterp._version import __version__
from mechinterp.core import ConfigError, Settings, read_settings
from mechinterp.core.digest import digest
from mechinterp.core.progress import Progress
from mechinterp.core.statistics import binomial_limits
from mechinterp.curves import Shift, paired_shift
from mechinterp.curves.shifts import Expected
from mechinterp.measures.registry import function_of
from mechinterp.models import ModelConfig
from mechinterp.studies.milestones import Milestone
from mechinterp.studies.records import record_of_jobs
from mechinterp.tasks import Task, from_dict, get
from mechinterp.timeline import Measuring, trace
from mechinterp.training import Job, Run, TrainConfig, resolve, train_jobs
from mechinterp.training.files import locked, make_folder, write_atomic
from mechinterp.training.interventions import AnyIntervention, Intervention, as_interventions

ARMS = ("plain", "changed")
"""The two trainings of a seed."""
DECLARATION = "declared.json"
"""File of the milestones, written before the first run."""


class TwinsDeclaration(Settings):
    """What was declared before the runs: interventions, milestones, and which way the dates are to move.

    Args:
        interventions: Of the changed twins.
        milestones: The dates.
        expect: Which way the dates are to move, for one-sided sign tests; None for two-sided ones.
    """

    interventions: tuple[AnyIntervention, ...]
    milestones: tuple[Milestone, ...] = Field(min_length=1)
    expect: Expected | None = None


class TwinsFile(Settings):
    """All of `twins` in one file.

    Args:
        task: Name, or name and settings.
        seeds: One pair each, or how many from 0 on.
        out: Folder.
        interventions: As tables.
        milestones: As tables.
        expect: As for `twins`; so are the rest.
    """

    task: str | dict[str, object]
    seeds: tuple[int, ...]
    out: str
    interventions: tuple[dict[str, object], ...]
    milestones: tuple[dict[str, object], ...]
    expect: str | None = None
    under: bool = True
    seed: int = 0
    model: dict[str, object] = Field(default_factory=dict)
    training: dict[str, object] = Field(default_factory=dict)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: object) -> object:
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds

    def run(self, workers: int | None = None, progress: bool | Progress = False) -> Twins:
        """What `twins` makes of it."""
        return twins(
            from_dict({"name": self.task} if isinstance(self.task, str) else self.task),
            self.interventions,
            self.milestones,
            seeds=self.seeds,
            out=self.out,
            expect=self.expect,
            under=self.under,
            seed=self.seed,
            model=self.model,
            training=self.training,
            workers=workers,
            progress=progress,
        )


@dataclass(frozen=True, eq=False)
class Twins:
    """The result of `twins`.

    Args:
        declaration: Interventions, milestones and the expected direction.
        shifts: Milestone and threshold, `name (threshold)` -> by how much its date moves.
        dates: By `date` (the same names), `arm` (`plain`, `changed`) and `seed`: `step` (NaN where it did not come),
            `clear` (the last step up to which it surely had not) and `transient` (it was lost again).
        curves: The measures along training, one variable per milestone: `arm`, `seed`, `step`.
        attrs: Task, seeds, whether the changed twins were measured under their interventions, whether all was declared
            before the runs, the declaration's digest, and what the runs are (`record`, as in `Study`).
    """

    declaration: TwinsDeclaration
    shifts: Mapping[str, Shift]
    dates: xr.Dataset
    curves: xr.Dataset
    attrs: Mapping[str, object]

    def came(self, date: str, arm: str, confidence: float = 0.95) -> tuple[int, int, float, float]:
        """In how many runs a date came, of how many, and the limits of that share, each at its own confidence.

        Limits are exact and one-sided: 0 of 20 says that the share is at most 14% with 95% confidence.
        """
        steps = self.dates["step"].sel(date=date, arm=arm).values
        wins, trials = int(np.isfinite(steps).sum()), len(steps)
        return wins, trials, *binomial_limits(wins, trials, 2 * confidence - 1)

    def rows(self) -> list[dict[str, object]]:
        """One row per date: the shift, its interval, how often it came in each arm, and the sign test."""
        table = []
        for name, shift in self.shifts.items():
            counts = {f"came, {arm}": "{} of {}".format(*self.came(name, arm)[:2]) for arm in ARMS}
            row = {"date": name, "shift": shift.ratio, "low": shift.low, "high": shift.high}
            row |= {"complete pairs": shift.complete, "pairs": shift.pairs, **counts}
            row |= {"earlier": shift.test.wins, "later": shift.test.losses, "no order": shift.test.ties}
            table.append({**row, "p": shift.test.p, "mean at least": shift.least, "mean at most": shift.most})
        return table

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"{name}: {shift}" for name, shift in self.shifts.items())])

    @property
    def headline(self) -> str:
        """What was compared, in one line."""
        kinds = ", ".join(dict.fromkeys(str(getattr(one, "kind", "")) for one in self.declaration.interventions))
        seeds = self.dates.sizes["seed"]
        return (
            f"{self.attrs['task']}, {seeds} pairs of runs: {kinds} against plain training; changed runs measured "
            f"{self.attrs['interventions']} their interventions; dates declared {self.attrs['declared']}"
        )

    def _repr_html_(self) -> str:
        rows = [{name: _cell(value) for name, value in row.items()} for row in self.rows()]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row.values()) + "</tr>" for row in rows)
        return f"<p>{html.escape(self.headline)}</p><table><tr>{head}</tr>{body}</table>"


def twins(
    task: Task | str,
    interventions: Iterable[Intervention | Mapping[str, object]],
    milestones: Sequence[Milestone | Mapping[str, object]],
    *,
    seeds: Sequence[int],
    out: str | Path,
    expect: str | None = None,
    under: bool = True,
    seed: int = 0,
    model: ModelConfig | Mapping[str, object] | None = None,
    training: TrainConfig | Mapping[str, object] | None = None,
    keep: Iterable[int] | None = None,
    workers: int | None = None,
    progress: bool | Progress = False,
    **overrides: object,
) -> Twins:
    """Train every seed twice, plainly and with interventions, and measure by how much they move dates.

    Twins have the same initial weights and see the same examples. Dates are first passages of declared shares of a
    measure's own range, not of its observed change. Where both twins got there, their dates give a shift of ln t; a
    date that did not come by the end is censored: the pair still has an order where that is certain, and a bound. What
    is called again continues: finished runs and traces are read.

    Args:
        task: The task, or its name.
        interventions: As in `train`.
        milestones: The dates, or their settings. They are written to the folder before the first run; a later call with
            others says in its result that they were not.
        seeds: One pair each.
        out: Folder: `<out>/plain/seed-0`, `<out>/changed/seed-0`, ...
        expect: `earlier` or `later`, if that is declared beforehand too: sign tests are then one-sided.
        under: Whether changed runs are measured under their interventions, as training ran them, or as plain models.
        seed: Of the examples that are measured on.
        model: As in `train`.
        training: As in `train`.
        keep: As in `train`: which weights stay; the dates are measured in training and need none.
        workers: Processes that train; None for one per core.
        progress: True for bars, or a function that is called with (what, done, total).
        **overrides: As in `train`.

    Raises:
        ConfigError: If a setting, intervention or milestone has no meaning, or a seed comes twice.
        RunError: If a run failed, or the folder holds other runs.
    """
    task = get(task) if isinstance(task, str) else task
    chosen = [one if isinstance(one, Milestone) else Milestone.of(one) for one in milestones]
    declaration = TwinsDeclaration.of(
        {"interventions": as_interventions(interventions), "milestones": tuple(chosen), "expect": expect}
    )
    _check(declaration, seeds)
    architecture, settings = resolve(task, model, training, overrides)
    folder = Path(out)
    declared = _declare(folder, declaration)
    changes = {"plain": (), "changed": declaration.interventions}
    # Measured in the processes that train, and read below. Measures of this very program cannot go there.
    away = all(function_of(one.measure).__module__ != "__main__" for one in chosen)
    measuring = Measuring.of({one.what.key: one.what for one in chosen}, seed, under) if away else None
    kept = None if keep is None else tuple(keep)
    jobs = [
        Job(task, architecture, settings, number, folder / arm / f"seed-{number}", changes[arm], kept, measuring)
        for number in seeds
        for arm in ARMS
    ]
    runs = train_jobs(jobs, workers, resume=True, progress=progress)
    found = [_measured(run, chosen, seed, under and bool(run.config.interventions), progress) for run in runs]
    dates, curves = _dates(found, chosen, seeds), _curves(found, seeds)
    attrs = {"task": task.name, "interventions": "with" if under else "without", "declared": declared, "seed": seed}
    attrs |= {"record": record_of_jobs(jobs)}
    attrs |= {"declaration": digest(declaration.model_dump(mode="json")), "version": __version__}
    shifts = {str(name): _shift(dates.sel(date=name), declaration.expect) for name in dates["date"].values}
    return Twins(declaration, shifts, dates.assign_attrs(attrs), curves.assign_attrs(attrs), attrs)


def _check(declaration: TwinsDeclaration, seeds: Sequence[int]) -> None:
    if not declaration.interventions:
        raise ConfigError("twins differ by interventions: name at least one")
    if not seeds:
        raise ConfigError("twins need at least one seed")
    names = [one.name for one in declaration.milestones]
    if len(set(names)) < len(names):
        raise ConfigError(f"two milestones have one name: {', '.join(sorted(names))}")


def _declare(folder: Path, declaration: TwinsDeclaration) -> str:
    """Write the declaration where there is none; whether this one was there before the runs."""
    path = folder / DECLARATION
    if not path.exists():
        started = any(folder.glob("*/seed-*/run.json"))
        make_folder(folder)
        with locked(folder):
            write_atomic(path, (json.dumps(declaration.model_dump(mode="json"), indent=2) + "\n").encode())
        return "after the runs" if started else "before the runs"
    return "before the runs" if read_settings(path, "json", TwinsDeclaration) == declaration else "after the runs"


def _measured(
    run: Run, milestones: Sequence[Milestone], seed: int, under: bool, progress: bool | Progress
) -> dict[str, xr.DataArray]:
    """Milestone -> its curve."""
    measures = {one.what.key: one.what for one in milestones}
    timeline = trace(run, measures, seed=seed, interventions=under, progress=progress)
    return {one.name: one.curve(timeline) for one in milestones}


def _dates(
    found: Sequence[Mapping[str, xr.DataArray]], milestones: Sequence[Milestone], seeds: Sequence[int]
) -> xr.Dataset:
    names = [label for one in milestones for label in one.labels]
    passages = [[one.passages(curves[one.name]) for one in milestones] for curves in found]
    shape = (len(seeds), len(ARMS), len(names))
    parts = {
        name: np.array([np.concatenate([one[name].values for one in run]) for run in passages]).reshape(shape)
        for name in ("step", "clear", "transient")
    }
    coords = {"seed": list(seeds), "arm": list(ARMS), "date": names}
    return xr.Dataset({name: (("seed", "arm", "date"), part) for name, part in parts.items()}, coords).transpose(
        "date", "arm", "seed"
    )


def _curves(found: Sequence[Mapping[str, xr.DataArray]], seeds: Sequence[int]) -> xr.Dataset:
    arms = xr.DataArray(list(ARMS), dims="arm", name="arm")
    index = xr.DataArray(list(seeds), dims="seed", name="seed")
    parts = {}
    for name in found[0]:
        pairs = [
            xr.concat([curves[name].drop_attrs() for curves in found[first : first + 2]], arms)
            for first in range(0, len(found), 2)
        ]
        parts[name] = xr.concat(pairs, index).transpose("arm", "seed", "step")
    return xr.Dataset(parts)


def _shift(dates: xr.Dataset, expect: Expected | None) -> Shift:
    plain, changed = (dates[["step", "clear"]].sel(arm=arm).rename(seed="pair") for arm in ARMS)
    return paired_shift(plain, changed, expect)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))
