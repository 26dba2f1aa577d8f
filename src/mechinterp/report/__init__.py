"""A Run's results as one self-contained HTML page that works offline."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mechinterp.emergence import Study
from mechinterp.report.page import render
from mechinterp.report.sections import sections, title
from mechinterp.training import Run
from mechinterp.training.files import write_atomic


def report(run: Run | str | Path, out: str | Path | None = None, study: Study | None = None) -> Path:
    """Write a Run's results as one HTML page that needs no network and no other file.

    Args:
        run: A Run, or its folder.
        out: Where to write; `report.html` in the Run's folder by default.
        study: The results; by default what `study` left in the Run's folder.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is no Run, holds no study of its weights yet, or cannot be written.
    """
    run = run if isinstance(run, Run) else Run(run)
    found = Study.load(run) if study is None else study
    page = render(title(run), found.verdict, str(run.path), sections(run, found))
    path = Path(out) if out is not None else run.path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode())
    return path


class _CallableRoom(ModuleType):
    """This package, callable, so that `mi.report(run)` works whatever was imported first.

    The import system binds a submodule on its parent after the submodule has run, so a function `mechinterp.report`
    would be hidden by `import mechinterp.report`; and were the function bound over the module, attribute access to
    `mechinterp.report.<submodule>` would break. A module that can be called has neither fault.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return report(*args, **options)


sys.modules[__name__].__class__ = _CallableRoom
