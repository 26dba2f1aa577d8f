"""Many jobs at once, each in a process of its own; other engines (a job array, a cluster) fit the same seam."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError
from typing import Generic, Protocol, TypeVar, cast

from mechinterp._signals import exit_at_once, stop_on_sigterm
from mechinterp.core.errors import ConfigError, MechinterpError, RunError
from mechinterp.core.progress import StepProgress

_GRACE = 3.0
"""Seconds that a process has to leave its files in order after it is told to stop."""
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
Work = Callable[[_Job, StepProgress], _Result]
"""`work(job, progress)` does one job, and may say how far it is; a process must be able to import it."""
JobProgress = Callable[[int, int, int], None]
"""Called with (number of the job, done, total)."""
JobEnd = Callable[[int], None]
"""Called with the number of a job that has ended, well or not."""


@dataclass(frozen=True)
class Outcome(Generic[_Result]):
    """What came of one job.

    Args:
        value: What the work returned.
        failure: Why there is no value; empty where there is one.
        error: The error, where the work raised one of ours.
        died: Whether the process ended without a word.
    """

    value: _Result | None = None
    failure: str = ""
    error: MechinterpError | None = None
    died: bool = False

    @property
    def result(self) -> _Result:
        """What the work returned.

        Raises:
            MechinterpError: The error of the work, or a `RunError` that says why there is no result.
        """
        if self.failure:
            raise self.error or RunError(self.failure)
        return cast(_Result, self.value)


class Engine(Protocol):
    """Where jobs run."""

    def run(
        self,
        work: Work[_Job, _Result],
        jobs: Sequence[_Job],
        on_progress: JobProgress | None = None,
        on_end: JobEnd | None = None,
    ) -> list[Outcome[_Result]]:
        """Do all jobs; one outcome for each, in their order.

        Args:
            work: Does one.
            jobs: Plain values that can be pickled.
            on_progress: Hears how far a job is.
            on_end: Hears that a job has ended.
        """
        ...


@dataclass(frozen=True)
class LocalProcesses:
    """Processes of this machine. One that dies takes its own job with it, and no other.

    Args:
        count: Processes.
        retries: How often a job is tried again whose process died.
    """

    count: int
    retries: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"workers={self.count}: at least one process is needed")

    def run(
        self,
        work: Work[_Job, _Result],
        jobs: Sequence[_Job],
        on_progress: JobProgress | None = None,
        on_end: JobEnd | None = None,
    ) -> list[Outcome[_Result]]:
        """See `Engine`."""
        return _Pool(work, jobs, self.retries, on_progress, on_end).run(min(self.count, len(jobs)))


def check_portable(job: object, name: str) -> None:
    """Refuse a job that cannot go to another process.

    Raises:
        ConfigError: If it cannot be pickled; says what to do.
    """
    try:
        ForkingPickler.dumps(job)
    except (AttributeError, TypeError, ValueError, PicklingError) as error:
        raise ConfigError(f"{name} cannot go to another process: define it in a module ({error})") from error


@dataclass(eq=False)
class _Pool(Generic[_Job, _Result]):
    """Hands jobs to processes, each on a line of its own."""

    work: Work[_Job, _Result]
    jobs: Sequence[_Job]
    retries: int
    on_progress: JobProgress | None
    on_end: JobEnd | None
    _busy: dict[Connection, tuple[BaseProcess, int]] = field(default_factory=dict)
    _outcomes: dict[int, Outcome[_Result]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = deque(range(len(self.jobs)))
        self._left = [self.retries] * len(self.jobs)

    def run(self, count: int) -> list[Outcome[_Result]]:
        try:
            while self._waiting or self._busy:
                while self._waiting and len(self._busy) < count:
                    self._start()
                for line in wait(list(self._busy)):
                    if isinstance(line, Connection):
                        self._receive(line)
        finally:
            self._stop()
        return [self._outcomes[number] for number in range(len(self.jobs))]

    def _stop(self) -> None:
        """Tell the processes that are still busy to stop, and end those that take too long."""
        deadline = time.monotonic() + _GRACE
        for process, _ in self._busy.values():
            process.terminate()
        for line, (process, _) in self._busy.items():
            process.join(max(deadline - time.monotonic(), 0))
            process.kill()
            process.join()
            line.close()

    def _start(self) -> None:
        # Spawned, not forked: a forked child inherits torch's threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
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
        number = self._waiting.popleft()
        self._busy[line] = (process, number)
        with suppress(BrokenPipeError):  # It died at once; that is heard as the end of the line.
            line.send(self.jobs[number])

    def _receive(self, line: Connection) -> None:
        process, number = self._busy[line]
        try:
            message = line.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            del self._busy[line]
            line.close()
            if self._left[number]:
                self._left[number] -= 1
                self._waiting.append(number)
            else:
                self._end(number, Outcome(failure=f"its process died (exit code {process.exitcode})", died=True))
            return
        except Exception as error:
            message = Outcome(failure=_unreadable("result", error))
        if isinstance(message, Outcome):
            self._end(number, message)
            self._assign(line, process)
        elif self.on_progress is not None:
            self.on_progress(number, *message)

    def _end(self, number: int, outcome: Outcome[_Result]) -> None:
        self._outcomes[number] = outcome
        if self.on_end is not None:
            self.on_end(number)


def _serve(line: Connection, work: Work[_Job, _Result]) -> None:
    """What a process does: jobs, until the line is closed, the other process is gone, or it is told to stop."""
    stop_on_sigterm()
    try:
        while True:
            _answer(line, _outcome(line, work))
    except (BrokenPipeError, EOFError):
        return
    except KeyboardInterrupt:
        exit_at_once(1)


def _answer(line: Connection, outcome: Outcome[_Result]) -> None:
    try:
        line.send(outcome)
    except OSError:
        raise
    except Exception as error:
        line.send(Outcome(failure=f"its result cannot go to another process: {_in_one_line(error)}"))


def _outcome(line: Connection, work: Work[_Job, _Result]) -> Outcome[_Result]:
    """Receive a job, and do it."""
    try:
        job = line.recv()
    except EOFError:
        raise
    except Exception as error:  # say because its task's module cannot be imported here
        return Outcome(failure=f"{_unreadable('job', error)}; define tasks in a module")
    try:
        return Outcome(work(job, lambda done, total: line.send((done, total))))
    except BrokenPipeError:
        raise
    except MechinterpError as error:
        return Outcome(failure=str(error), error=error)
    except Exception as error:
        return Outcome(failure=_in_one_line(error))


def _unreadable(what: str, error: Exception) -> str:
    return f"the {what} cannot be read in another process: {_in_one_line(error)}"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
