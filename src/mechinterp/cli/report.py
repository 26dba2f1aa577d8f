"""`mechinterp report`: one HTML page about a Run."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.options import Json, RunFolder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report")(report)


def report(
    run: RunFolder,
    out: Annotated[str, typer.Option("--out", help="Where to write; RUN/report.html by default.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of a study that is still to be made.")] = 0,
    as_json: Json = False,
) -> None:
    """Write one HTML page that works offline. A Run that was not studied yet is studied first."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core import RunError
    from mechinterp.core.progress import Bars
    from mechinterp.pages import report as write
    from mechinterp.studies import Study, study
    from mechinterp.training import Run

    opened = Run(run)
    try:
        found = Study.load(opened)
    except RunError:  # none yet, or of other weights
        with Bars(True) as show:
            found = study(opened, seed, progress=show)
    with waiting("writing the report"):
        path = write(opened, out or None, found)
    if as_json:
        emit({"run": run, "report": path})
    else:
        table("Report", ["run", "page"], [[run, str(path)]])
