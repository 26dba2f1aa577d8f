"""What a verb returns, and how it is printed: as a table, or as JSON; progress goes to the error stream."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class CommandOutput:
    """What a verb returns.

    Args:
        data: What `--json` prints: one object, or several, each on its line.
        title: Of the table.
        rows: Of the table: heading -> cell.
        notes: Lines under the table.
        status: Exit status.
    """

    data: Mapping[str, object] | Sequence[Mapping[str, object]]
    title: str
    rows: Sequence[Mapping[str, object]]
    notes: Sequence[str] = ()
    status: int = 0

    def print(self, as_json: bool) -> None:
        """Write it to the standard output."""
        if not as_json:
            _print_table(self.title, self.rows, self.notes)
            return
        for item in [self.data] if isinstance(self.data, Mapping) else self.data:
            sys.stdout.write(json.dumps(plain(item), allow_nan=False) + "\n")


def plain(value: object) -> object:
    """Numbers, texts, lists and dicts only; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    for convert in ("to_numpy", "tolist"):  # of xarray, of numpy
        if hasattr(value, convert):
            return plain(getattr(value, convert)())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(part) for part in value]
    return str(value)


def _print_table(title: str, rows: Sequence[Mapping[str, object]], notes: Sequence[str]) -> None:
    """Numbers stand to the right; columns that are empty throughout are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = []
    for heading in dict.fromkeys(heading for row in rows for heading in row):
        cells = [row.get(heading) for row in rows]
        if any(cell not in (None, "") for cell in cells):
            columns.append([Text(number(cell)) for cell in cells])
            numbers = all(isinstance(cell, int | float) or cell in (None, "") for cell in cells)
            table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    # A pipe or a file has no width: a table is then as wide as it needs.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)
    console.print(Text(title, style="bold"), *([table] if rows else []), sep="\n")
    for note in notes:
        console.print(Text(note))


def number(value: object) -> str:
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
