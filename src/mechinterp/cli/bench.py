"""`mechinterp bench`: speed, against what people use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mechinterp.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench")(bench)


def bench(
    name: Annotated[str, typer.Argument(metavar="training|patching|edges", help="What to time.", show_default=False)],
    quick: Annotated[
        bool, typer.Option("--quick", help="A small case once: it runs, and its times mean nothing.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", help="Torch's threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Time one thing side by side with what people use; under a minute on an idle machine."""
    from mechinterp.bench import run
    from mechinterp.cli.output import emit, number, table

    result = run(name, quick, threads)
    if as_json:
        emit(result)
        return
    rows = result["sizes"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    notes = [
        f"{number(result['ratio'])} ({number(result['low'])} to {number(result['high'])}): {result['meaning']}",
        f"{result['clock']} of {result['threads']} thread(s); intervals are the 10th and 90th percentile over blocks",
        *_large(result),
    ]
    table(f"bench {name}", [column.replace("_", " ") for column in columns], _cells(rows, columns), notes)


def _cells(rows: list[dict[str, Any]], columns: list[str]) -> list[list[Any]]:
    return [[row.get(column) for column in columns] for row in rows]


def _large(result: dict[str, Any]) -> list[str]:
    if "large" not in result:
        return []
    large = result["large"]
    return [
        f"{large['edges']} edges of {large['layers']} layers of {large['heads']} heads with MLPs, exact: "
        f"{large['seconds']:.1f} s, target < {large['target']:.0f} s"
    ]
