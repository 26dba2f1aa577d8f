"""`mechinterp report`: one HTML page about a Run."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.options import Json, RunFolder, Values, takes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report")(report)


@takes("report")
def report(
    run: RunFolder,
    out: Annotated[str, typer.Option("--out", help="File to write (RUN/report.html).")] = "",
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Write one HTML page that works offline. A Run without a study is studied first."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core import RunError
    from mechinterp.core.progress import Bars
    from mechinterp.pages import report as write
    from mechinterp.studies import Study, study
    from mechinterp.training import Run

    opened = Run(run)
    try:
        story = Study.load(opened)
    except RunError:  # there is none yet, or it is of other weights
        with Bars(True) as show:
            story = study(opened, progress=show, **options)
    with waiting("writing the report"):
        path = write(opened, out=out or None, study=story)
    if as_json:
        emit({"run": run, "report": path})
    else:
        table("Report", ["run", "page"], [[run, str(path)]])
