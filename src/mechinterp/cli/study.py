"""`mechinterp study`: the story of a Run."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.options import Json, RunFolder, Values, takes

_COLUMNS = ("name", "value", "low", "high", "null", "unit", "where")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("study")(study)


@takes("study")
def study(
    run: RunFolder,
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat a study that the folder already holds.")] = False,
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Name a Run's heads, date them, find its circuit and judge it, each beside its null."""
    from mechinterp.cli.output import emit, table
    from mechinterp.core.progress import Bars
    from mechinterp.studies import study as tell_story
    from mechinterp.training import Run

    with Bars(True) as show:
        story = tell_story(Run(run), fresh=fresh, progress=show, **options)
    if as_json:
        found, reason = story.found
        emit({"run": run, "verdict": story.verdict, "findings": story.findings, "heads": story.heads, "found": found,
              "found_reason": reason, "circuit": story.circuit.to_dict(), "settings": story.settings})  # fmt: skip
        return
    rows = [[finding[name] for name in _COLUMNS] for finding in story.findings]
    table(f"Study of {run}", _COLUMNS, rows, [str(story)])
