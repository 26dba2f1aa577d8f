"""`mechinterp study` and `mechinterp report`: the story of a Run, as a table and as a page."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput, waiting

_COLUMNS = ("name", "value", "low", "high", "null", "unit", "where")


def study(
    chosen: Chosen,
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat a study that the folder already holds.")] = False,
) -> CommandOutput:
    """Name a Run's heads, date them, find its circuit and judge it, each beside its null."""
    from mechinterp.studies import study as tell_story

    story = chosen.call("a study", tell_story, chosen.run, fresh=fresh)
    found, reason = story.found
    data = {"run": chosen.folder, "verdict": story.verdict, "findings": story.findings, "heads": story.heads,
            "found": found, "found_reason": reason, "circuit": story.circuit.to_dict(),
            "settings": story.settings}  # fmt: skip
    rows = [{name: finding[name] for name in _COLUMNS} for finding in story.findings]
    return CommandOutput(data, f"Study of {chosen.folder}", rows, [str(story)])


def report(
    chosen: Chosen,
    out: Annotated[str, typer.Option("--out", help="File to write (RUN/report.html).")] = "",
) -> CommandOutput:
    """Write one HTML page that works offline. A Run without a study is studied first."""
    from mechinterp.core import RunError
    from mechinterp.pages import report as write
    from mechinterp.studies import Study
    from mechinterp.studies import study as tell_story

    try:
        story = Study.load(chosen.run)
    except RunError:  # there is none yet, or it is of other weights
        story = chosen.call("a study", tell_story, chosen.run)
    with waiting("writing the report"):
        path = write(chosen.run, out=out or None, study=story)
    return CommandOutput({"run": chosen.folder, "report": path}, "Report", [{"run": chosen.folder, "page": str(path)}])
