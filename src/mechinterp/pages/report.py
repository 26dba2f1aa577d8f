"""`report`: a Run's results as one page."""

from __future__ import annotations

from pathlib import Path

from mechinterp.pages.page import render
from mechinterp.pages.sections import sections, title
from mechinterp.pages.seeds import seed_sections
from mechinterp.studies import SeedStudy, Study
from mechinterp.training import Run
from mechinterp.training.files import write_atomic


def report(run: Run | SeedStudy | str | Path, out: str | Path | None = None, study: Study | None = None) -> Path:
    """Write a Run's results, or those of a declared study, as one HTML page that needs no network and no other file.

    Args:
        run: A Run, or its folder; or the results of a declared study.
        out: Where to write; `report.html` in the Run's folder by default.
        study: The results; by default the study in the Run's folder.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is no Run, holds no study of its weights yet, or cannot be written.
    """
    if isinstance(run, SeedStudy):
        folder = Path(str(run.settings["out"]))
        heading = str(run.settings["title"] or "What many seeds agree on")
        return _written(folder, out, render(heading, run.verdict, str(folder), seed_sections(run)))
    run = run if isinstance(run, Run) else Run(run)
    results = Study.load(run) if study is None else study
    page = render(title(run), results.verdict, str(run.path), sections(run, results))
    return _written(run.path, out, page)


def _written(folder: Path, out: str | Path | None, page: str) -> Path:
    path = Path(out) if out is not None else folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path
