"""Many runs at once, each in a process of its own with its own threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mechinterp.core import ConfigError, RunError, usable_cores
from mechinterp.core.progress import Bars, Progress, StepProgress
from mechinterp.core.workers import LocalProcesses, check_portable
from mechinterp.models import ModelConfig
from mechinterp.tasks import Task, get
from mechinterp.training.config import TrainConfig, resolve
from mechinterp.training.interventions import AnyIntervention, Intervention, as_interventions
from mechinterp.training.loop import AtCheckpoint, train
from mechinterp.training.run import Run


@dataclass(frozen=True)
class Job:
    """One training run to do, with complete settings.

    Args:
        task: The task; a class of your own must lie in a module that can be imported.
        model: Architecture.
        training: Settings of training.
        seed: Of weights and data.
        out: Folder.
        interventions: What is changed in training.
        keep: As in `train`.
        at_checkpoint: As in `train`; a function of a module, or an object that can go to another process.
    """

    task: Task
    model: ModelConfig
    training: TrainConfig
    seed: int
    out: Path
    interventions: tuple[AnyIntervention, ...] = ()
    keep: tuple[int, ...] | None = None
    at_checkpoint: AtCheckpoint | None = None


def train_many(
    task: Task | str,
    seeds: Sequence[int],
    out: str | Path,
    workers: int | None = None,
    model: ModelConfig | Mapping[str, object] | None = None,
    training: TrainConfig | Mapping[str, object] | None = None,
    resume: bool = False,
    progress: bool | Progress = False,
    interventions: Iterable[Intervention | Mapping[str, object]] = (),
    keep: Iterable[int] | None = None,
    at_checkpoint: AtCheckpoint | None = None,
    **overrides: object,
) -> list[Run]:
    """Train one run per seed, several at a time; each equals, bit for bit, what `train` makes of that seed alone.

    Args:
        task: The task, or its name.
        seeds: One run each, in `<out>/seed-<seed>`.
        out: Folder of the folders.
        workers: Processes; None for one per usable core and thread.
        model: As in `train`.
        training: As in `train`.
        resume: As in `train`: continues what is not finished.
        progress: True for bars, or a function that is called with (folder's name, step, steps).
        interventions: As in `train`, in each run.
        keep: As in `train`.
        at_checkpoint: As in `training.train`; `timeline.Measuring` takes measures.
        **overrides: As in `train`.

    Returns:
        The Runs, in the order of the seeds.

    Raises:
        ConfigError: If a setting is wrong, or a seed comes twice.
        RunError: If some runs failed; all others are finished first, and the text says which failed and why.
    """
    task = get(task) if isinstance(task, str) else task
    architecture, settings = resolve(task, model, training, overrides)
    changes = as_interventions(interventions)
    kept = None if keep is None else tuple(keep)
    jobs = [
        Job(task, architecture, settings, seed, Path(out) / f"seed-{seed}", changes, kept, at_checkpoint)
        for seed in seeds
    ]
    return train_jobs(jobs, workers, resume, progress)


def train_jobs(
    jobs: Sequence[Job],
    workers: int | None = None,
    resume: bool = False,
    progress: bool | Progress = False,
) -> list[Run]:
    """Train runs of any settings, several at a time; see `train_many`."""
    folders = [job.out.absolute() for job in jobs]
    if len(set(folders)) < len(folders):
        raise ConfigError("two runs would write to one folder: give each a seed or folder of its own")
    for job in jobs:
        check_portable(job, f"task {type(job.task).__qualname__}")
    engine = LocalProcesses(workers if workers is not None else _fitting(jobs))
    with Bars(progress) as show:
        outcomes = engine.run(
            _train_one,
            [(job, resume) for job in jobs],
            on_progress=lambda number, done, total: show(jobs[number].out.name, done, total),
        )
    failures = {job.out: outcome.failure for job, outcome in zip(jobs, outcomes, strict=True) if outcome.failure}
    if failures:
        reasons = "; ".join(f"{folder}: {why}" for folder, why in failures.items())
        rest = f"The other {len(jobs) - len(failures)} are finished; " if len(failures) < len(jobs) else ""
        raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {reasons}. {rest}resume continues the failed ones")
    return [Run(job.out, job.task) for job in jobs]


def _train_one(work: tuple[Job, bool], progress: StepProgress) -> None:
    job, resume = work
    train(
        job.task,
        job.model,
        job.training,
        job.seed,
        job.out,
        resume,
        progress,
        job.interventions,
        job.keep,
        job.at_checkpoint,
    )


def _fitting(jobs: Sequence[Job]) -> int:
    """Processes, so that there is a core for each thread."""
    threads = max((job.training.threads for job in jobs), default=1)
    return max(usable_cores() // threads, 1)
