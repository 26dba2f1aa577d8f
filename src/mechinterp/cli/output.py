"""What a command prints: a table for people, one JSON object for machines, progress on the error stream."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def emit(data: Mapping[str, Any]) -> None:
    """One JSON object on one line of the standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(plain(data), allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dicts only."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_numpy"):  # xarray
        value = value.to_numpy()
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence | set | frozenset):
        return [plain(part) for part in value]
    return str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str] = ()) -> None:
    """Print a table; numbers stand to the right, columns that are empty throughout are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = [index for index in range(len(columns)) if any(row[index] not in (None, "") for row in rows)]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index in kept:
        numbers = all(isinstance(row[index], int | float) or row[index] in (None, "") for row in rows)
        shown.add_column(columns[index], justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(number(row[index])) for index in kept))
    # A pipe or a file has no width: a table is then as wide as it needs.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)
    console.print(Text(title, style="bold"), shown, sep="\n")
    for note in notes:
        console.print(Text(note))


def number(value: Any) -> str:
    """A value as a person reads it: three digits, a dash for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on the error stream, for work that cannot say how far it is."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
