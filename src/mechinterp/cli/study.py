"""`mechinterp study` and `mechinterp report`: the story of a Run, as a table and as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput, waiting

if TYPE_CHECKING:
    from mechinterp.studies import SeedStudy, Study

_COLUMNS = ("name", "value", "low", "high", "null", "unit", "where")


def study(
    chosen: Chosen,
    fresh: Annotated[bool, typer.Option("--fresh", help="Repeat a study that the folder already holds.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Of a declared study: processes; 0 is one per core.")
    ] = 0,
    account: Annotated[bool, typer.Option("--account", help="Print it in sentences, with the methods.")] = False,
) -> CommandOutput:
    """Name a Run's heads, date them, find its circuit and judge it, each beside its null.

    In place of a Run, a file FILE.toml that declares a study over seeds: it is trained, traced, dated and tested.
    """
    if chosen.folder.endswith(".toml"):
        return _declared(chosen, fresh, workers, account)
    story = _study(chosen, fresh)
    found, reason = story.found
    data = {"run": chosen.folder, "verdict": story.verdict, "findings": story.findings, "heads": story.heads,
            "found": found, "found_reason": reason, "circuit": story.circuit.to_dict(),
            "settings": story.settings}  # fmt: skip
    if account:
        return _in_sentences(data, story)
    rows = [{name: finding[name] for name in _COLUMNS} for finding in story.findings]
    return CommandOutput(data, f"Study of {chosen.folder}", rows, [str(story)])


def _in_sentences(data: dict[str, object], story: Study | SeedStudy) -> CommandOutput:
    from mechinterp.studies import account

    results = account(story)
    title, _, text = results.markdown.partition("\n\n")
    return CommandOutput({**data, "account": results.sections}, title, [], [text.rstrip()])


def _study(chosen: Chosen, fresh: bool = False) -> Study:
    from mechinterp.studies import study as tell_story

    of_a_run: Callable[..., Study] = tell_story
    return chosen.call("a study", of_a_run, chosen.run, fresh=fresh)


def _declared(chosen: Chosen, fresh: bool, workers: int, account: bool) -> CommandOutput:
    story = _seed_study(chosen, fresh, workers)
    data = {"declared_in": chosen.folder, "sha256": story.sha256, "verdict": story.verdict,
            "findings": story.findings, "settings": story.settings}  # fmt: skip
    if account:
        return _in_sentences(data, story)
    rows = [{name: finding[name] for name in (*_COLUMNS, "note")} for finding in story.findings]
    return CommandOutput(data, f"Study declared in {chosen.folder}", rows, [str(story)])


def _seed_study(chosen: Chosen, fresh: bool = False, workers: int = 0) -> SeedStudy:
    from mechinterp.core import ConfigError
    from mechinterp.studies import declared_study

    if chosen.options or fresh:
        flags = [f"--{name}" for name in chosen.options] + ["--fresh"] * fresh
        raise ConfigError(f"{chosen.folder} declares the whole study: leave {flags[0]} out")
    return declared_study(chosen.folder, workers=workers or None, progress=True)


def report(
    chosen: Chosen,
    out: Annotated[str, typer.Option("--out", help="File to write (RUN/report.html).")] = "",
) -> CommandOutput:
    """Write one HTML page that works offline. A Run without a study is studied first.

    In place of a Run, a file FILE.toml that declares a study over seeds, which is finished first.
    """
    from mechinterp.core import RunError
    from mechinterp.pages import report as write
    from mechinterp.studies import Study

    if chosen.folder.endswith(".toml"):
        path = write(_seed_study(chosen), out=out or None)
        return _page(chosen, path)
    try:
        story = Study.load(chosen.run)
    except RunError:  # there is none yet, or it is of other weights
        story = _study(chosen)
    with waiting("writing the report"):
        path = write(chosen.run, out=out or None, study=story)
    return _page(chosen, path)


def _page(chosen: Chosen, path: Path) -> CommandOutput:
    return CommandOutput({"run": chosen.folder, "report": path}, "Report", [{"run": chosen.folder, "page": str(path)}])
