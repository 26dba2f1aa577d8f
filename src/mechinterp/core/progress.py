"""Progress bars, or a function in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[..., None]
"""Called with (what, done, total)."""


class Bars:
    """Inside `with`, a function of (what, done, total), one bar for each `what`.

    Args:
        progress: False for nothing, True for bars on the error stream, or a function to call instead.
        label: Name of the bar of a function that is called with (done, total) alone.
    """

    def __init__(self, progress: bool | Progress, label: str = "") -> None:
        self._progress, self._label, self._tasks = progress, label, {}
        self._bars: Any = None

    def __enter__(self) -> Progress:
        if not isinstance(self._progress, bool):
            return self._progress
        if not self._progress:
            return lambda *_: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._bars.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show(self, *where: Any) -> None:
        """`(done, total)`, or `(what, done, total)` with several bars."""
        label, done, total = where if len(where) == 3 else (self._label, *where)
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(str(label), total=total)
        self._bars.update(self._tasks[label], completed=done, total=total)
