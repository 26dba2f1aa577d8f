"""Train and trace one Run per seed, several at a time; each process trains a Run and measures it right after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import xarray as xr

from mechinterp.core import ConfigError, RunError, usable_cores
from mechinterp.core.memo import remembering
from mechinterp.core.progress import Progress, StepProgress
from mechinterp.core.workers import LocalProcesses, check_portable
from mechinterp.measures.registry import function_of
from mechinterp.studies.declaration import Declaration
from mechinterp.timeline import trace
from mechinterp.training import Job, Run, train


@dataclass(frozen=True)
class SeedJob:
    """One seed's work.

    Args:
        job: Its training.
        declaration: Says what is measured.
        modules: Modules that define the measures.
    """

    job: Job
    declaration: Declaration
    modules: tuple[str, ...]


def train_and_trace(declaration: Declaration, jobs: Sequence[Job], workers: int | None, show: Progress) -> list[Run]:
    """Every Run trained and measured; what is there already is kept.

    Args:
        declaration: Says what is measured.
        jobs: The trainings.
        workers: Processes; None for one per core and thread, 1 for this process.
        show: Called with (folder's name, done, total).

    Raises:
        RunError: If some Runs failed; all others are finished first.
        ConfigError: If task or measures cannot go to another process.
    """
    modules = tuple({function_of(one.measure).__module__ for one in declaration.quantities.values()})
    work = [SeedJob(job, declaration, modules) for job in jobs]
    count = workers or max(usable_cores() // max(job.training.threads for job in jobs), 1)
    if count == 1:
        for one in work:
            train_and_trace_one(one, lambda done, total, name=one.job.out.name: show(name, done, total))
    else:
        if "__main__" in modules:
            raise ConfigError("a measure is defined in this program: define it in a module, or use workers=1")
        for one in work:
            check_portable(one, f"task {type(one.job.task).__qualname__}")
        outcomes = LocalProcesses(count, retries=1).run(
            train_and_trace_one, work, lambda number, done, total: show(jobs[number].out.name, done, total)
        )
        failures = {job.out: outcome.failure for job, outcome in zip(jobs, outcomes, strict=True) if outcome.failure}
        if failures:
            reasons = "; ".join(f"{folder}: {why}" for folder, why in failures.items())
            raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {reasons}. The others are kept: run it again")
    return [Run(job.out, job.task) for job in jobs]


def train_and_trace_one(work: SeedJob, progress: StepProgress) -> None:
    """Train one Run, or go on with it, and measure its checkpoints."""
    for module in work.modules:
        import_module(module)
    job = work.job
    timeline_of(train(job.task, job.model, job.training, job.seed, job.out, True, progress), work.declaration)


def timeline_of(run: Run, declaration: Declaration) -> xr.Dataset:
    """The quantities' measures along one Run, those that are stored not measured again."""
    measures = {name: one.to_measure() for name, one in declaration.quantities.items()}
    steps = None if declaration.checkpoints == "all" else declaration.checkpoints
    with remembering("draws"):
        return trace(run, measures, declaration.examples_seed, steps)
