"""How far work is: the functions that hear of it, and bars in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""
StepProgress = Callable[[int, int], None]
"""Called with (done, total), where there is only one thing to do."""


class Bars:
    """Inside `with`, a `Progress`: one bar for each `what`.

    Args:
        progress: False for nothing, True for bars on the error stream, or a function to call instead.
    """

    def __init__(self, progress: bool | Progress) -> None:
        self._progress = progress
        self._bars: RichProgress | None = None

    def __enter__(self) -> Progress:
        if not isinstance(self._progress, bool):
            return self._progress
        if not self._progress:
            return lambda what, done, total: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._bars.start()
        return partial(_advance, self._bars, {})

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()


def nameless(progress: bool | StepProgress) -> bool | Progress:
    """What `Bars` takes, from a function that does not hear what is done."""
    return progress if isinstance(progress, bool) else lambda _, done, total: progress(done, total)


def _advance(bars: RichProgress, numbers: dict[str, TaskID], what: str, done: int, total: int) -> None:
    if what not in numbers:
        numbers[what] = bars.add_task(what, total=total)
    bars.update(numbers[what], completed=done, total=total)
