"""Many runs at once, each in a process of its own with its own threads."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from pickle import PicklingError
from typing import Any

from mechinterp.core import ConfigError, MechinterpError, RunError, usable_cores
from mechinterp.core.progress import Bars
from mechinterp.models import ModelConfig
from mechinterp.tasks import Task, get
from mechinterp.training.config import TrainConfig, resolve
from mechinterp.training.loop import train
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
    """

    task: Task
    model: ModelConfig
    training: TrainConfig
    seed: int
    out: Path


def train_many(
    task: Task | str,
    seeds: Sequence[int],
    out: str | Path,
    workers: int | None = None,
    model: ModelConfig | Mapping[str, Any] | None = None,
    training: TrainConfig | Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool | Callable[[str, int, int], None] = False,
    **overrides: Any,
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
        **overrides: As in `train`.

    Returns:
        The Runs, in the order of the seeds.

    Raises:
        ConfigError: If a setting is wrong, or a seed comes twice.
        RunError: If some runs failed; all others are finished first, and the text says which failed and why.
    """
    task = get(task) if isinstance(task, str) else task
    architecture, settings = resolve(task, model, training, overrides)
    jobs = [Job(task, architecture, settings, seed, Path(out) / f"seed-{seed}") for seed in seeds]
    return train_jobs(jobs, workers, resume, progress)


def train_jobs(
    jobs: Sequence[Job],
    workers: int | None = None,
    resume: bool = False,
    progress: bool | Callable[[str, int, int], None] = False,
) -> list[Run]:
    """Train runs of any settings, several at a time; see `train_many`."""
    folders = [job.out.absolute() for job in jobs]
    if len(set(folders)) < len(folders):
        raise ConfigError("two runs would write to one folder: give each a seed or folder of its own")
    for job in jobs:
        try:
            ForkingPickler.dumps(job)
        except (AttributeError, TypeError, ValueError, PicklingError) as error:
            kind = type(job.task).__qualname__
            raise ConfigError(f"task {kind} cannot go to another process: define it in a module ({error})") from error
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least one process is needed")
    count = min(len(jobs), workers or _usable(jobs))
    with Bars(progress) as show:
        failed = _Pool(jobs, resume, show).run(count)
    if failed:
        told = "; ".join(f"{jobs[index].out}: {why}" for index, why in sorted(failed.items()))
        rest = f"The other {len(jobs) - len(failed)} are finished; " if len(failed) < len(jobs) else ""
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed: {told}. {rest}resume continues the failed ones")
    return [Run(job.out, job.task) for job in jobs]


class _Pool:
    """Hands jobs to processes. One that dies takes its own job with it, and no other."""

    def __init__(self, jobs: Sequence[Job], resume: bool, show: Callable[..., None] | None) -> None:
        self._jobs, self._resume, self._show = jobs, resume, show
        self._waiting = deque(range(len(jobs)))
        self._busy: dict[Connection, tuple[BaseProcess, int]] = {}
        self._failed: dict[int, str] = {}

    def run(self, count: int) -> dict[int, str]:
        """Do all jobs; returns why some failed, by number."""
        try:
            while self._waiting or self._busy:
                while self._waiting and len(self._busy) < count:
                    self._start()
                for line in wait(list(self._busy)):
                    assert isinstance(line, Connection)
                    self._hear(line)
        finally:
            for line, (process, _) in self._busy.items():
                process.terminate()
                process.join()
                line.close()
        return self._failed

    def _start(self) -> None:
        # Spawned, not forked: a forked child inherits torch's threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._assign(ours, process)

    def _assign(self, line: Connection, process: BaseProcess) -> None:
        """Give an idle process its next job, or let it go."""
        self._busy.pop(line, None)
        if not self._waiting:
            line.close()
            process.join()
            return
        index = self._waiting.popleft()
        self._busy[line] = (process, index)
        with suppress(BrokenPipeError):  # It died at once; that is heard as the end of the line.
            line.send((self._jobs[index], self._resume))

    def _hear(self, line: Connection) -> None:
        process, index = self._busy[line]
        try:
            kind, *rest = line.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            self._failed[index] = f"its process died (exit code {process.exitcode})"
            del self._busy[line]
            line.close()
            return
        if kind == "step":
            if self._show is not None:
                self._show(self._jobs[index].out.name, *rest)
            return
        if kind == "failed":
            self._failed[index] = rest[0]
        self._assign(line, process)


def _work(line: Connection) -> None:
    """What a process does: jobs, until the line is closed."""
    while True:
        try:
            job, resume = line.recv()
        except (EOFError, KeyboardInterrupt):
            return
        except Exception as error:
            # The job could not be read, say because its task's module cannot be imported here.
            text = f"the job cannot be read in another process: {type(error).__name__}: {error}"
            line.send(("failed", f"{text}; define tasks in a module"))
            continue
        try:
            train(
                job.task, job.model, job.training, job.seed, job.out, resume, lambda *where: line.send(("step", *where))
            )
            line.send(("done",))
        except KeyboardInterrupt:
            return
        except MechinterpError as error:
            line.send(("failed", str(error)))
        except Exception as error:
            line.send(("failed", f"{type(error).__name__}: {error}"))


def _usable(jobs: Sequence[Job]) -> int:
    threads = max((job.training.threads for job in jobs), default=1)
    return max(usable_cores() // threads, 1)
