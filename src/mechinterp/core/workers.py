"""Many jobs at once, each in a process of its own; other engines (a job array, a cluster) fit the same seam."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError
from typing import Any, Protocol

from mechinterp.core.errors import ConfigError, MechinterpError

Tell = Callable[..., None]
Work = Callable[[Any, Tell], Any]
"""`work(job, tell)` does one job, and may tell how far it is; a process must be able to import it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one job.

    Args:
        value: What the work returned.
        failure: Why there is no value; empty where there is one.
        error: The error, where the work raised one of ours.
        died: Whether the process ended without a word.
    """

    value: Any = None
    failure: str = ""
    error: MechinterpError | None = None
    died: bool = False


class Engine(Protocol):
    """Where jobs run."""

    def run(self, work: Work, jobs: Sequence[Any], hear: Callable[..., None] | None = None) -> list[Outcome]:
        """Do all jobs; one outcome for each, in their order.

        Args:
            work: Does one.
            jobs: Plain values that can be pickled.
            hear: Called with the number of a job and what its work told; with the number alone when it ends.
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

    def run(self, work: Work, jobs: Sequence[Any], hear: Callable[..., None] | None = None) -> list[Outcome]:
        """See `Engine`."""
        return _Pool(work, jobs, self.retries, hear or (lambda *_: None)).run(min(self.count, len(jobs)))


def check_portable(job: Any, name: str) -> None:
    """Refuse a job that cannot go to another process.

    Raises:
        ConfigError: If it cannot be pickled; says what to do.
    """
    try:
        ForkingPickler.dumps(job)
    except (AttributeError, TypeError, ValueError, PicklingError) as error:
        raise ConfigError(f"{name} cannot go to another process: define it in a module ({error})") from error


class _Pool:
    """Hands jobs to processes, each on a line of its own."""

    def __init__(self, work: Work, jobs: Sequence[Any], retries: int, hear: Callable[..., None]) -> None:
        self._work, self._jobs, self._hear = work, jobs, hear
        self._waiting = deque(range(len(jobs)))
        self._left = [retries] * len(jobs)
        self._busy: dict[Connection, tuple[BaseProcess, int]] = {}
        self._outcomes: dict[int, Outcome] = {}

    def run(self, count: int) -> list[Outcome]:
        try:
            while self._waiting or self._busy:
                while self._waiting and len(self._busy) < count:
                    self._start()
                for line in wait(list(self._busy)):
                    if isinstance(line, Connection):
                        self._receive(line)
        finally:
            for line, (process, _) in self._busy.items():
                process.terminate()
                process.join()
                line.close()
        return [self._outcomes[number] for number in range(len(self._jobs))]

    def _start(self) -> None:
        # Spawned, not forked: a forked child inherits torch's threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
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
            line.send(self._jobs[number])

    def _receive(self, line: Connection) -> None:
        process, number = self._busy[line]
        try:
            kind, content = line.recv()
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
        if kind == "told":
            self._hear(number, *content)
            return
        self._end(number, content)
        self._assign(line, process)

    def _end(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self._hear(number)


def _serve(line: Connection, work: Work) -> None:
    """What a process does: jobs, until the line is closed."""
    while True:
        try:
            job = line.recv()
        except (EOFError, KeyboardInterrupt):
            return
        except Exception as error:
            # The job could not be read, say because its task's module cannot be imported here.
            text = f"the job cannot be read in another process: {type(error).__name__}: {error}"
            line.send(("ended", Outcome(failure=f"{text}; define tasks in a module")))
            continue
        try:
            outcome = Outcome(work(job, lambda *content: line.send(("told", content))))
        except KeyboardInterrupt:
            return
        except MechinterpError as error:
            outcome = Outcome(failure=str(error), error=error)
        except Exception as error:
            outcome = Outcome(failure=f"{type(error).__name__}: {error}")
        line.send(("ended", outcome))
