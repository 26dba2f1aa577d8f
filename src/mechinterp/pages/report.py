"""`report`: a Run's results as one page."""

from __future__ import annotations

from pathlib import Path

from mechinterp.pages.page import render
from mechinterp.pages.sections import sections, title
from mechinterp.studies import Study
from mechinterp.training import Run
from mechinterp.training.files import write_atomic


def report(run: Run | str | Path, out: str | Path | None = None, study: Study | None = None) -> Path:
    """Write a Run's results as one HTML page that needs no network and no other file.

    Args:
        run: A Run, or its folder.
        out: Where to write; `report.html` in the Run's folder by default.
        study: The results; by default the study in the Run's folder.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is no Run, holds no study of its weights yet, or cannot be written.
    """
    run = run if isinstance(run, Run) else Run(run)
    results = Study.load(run) if study is None else study
    page = render(title(run), results.verdict, str(run.path), sections(run, results))
    path = Path(out) if out is not None else run.path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path
