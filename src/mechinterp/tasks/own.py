"""A task class out of a user's file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from mechinterp.core import ConfigError, suggest
from mechinterp.tasks.base import Task


def from_file(where: str) -> type[Task]:
    """Run a Python file and take a task class from it; from then on the task is known by its name.

    Args:
        where: `FILE.py:CLASS`, or `FILE.py` where the file defines one task only. The file is imported as a module of
            its name, and its folder joins `sys.path`, so that worker processes can import it too.

    Raises:
        ConfigError: If the file does not exist or cannot be run, its name is the one of another module, or it defines
            no such task.
    """
    file, _, wanted = where.partition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"no Python file {file}: write my_tasks.py:MyTask")
    module = _imported(path)
    own = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, Task) and kind.__module__ == module.__name__
    }
    if not own:
        raise ConfigError(f"{file} defines no task: write a subclass of mechinterp.tasks.Task in it")
    if wanted and wanted not in own:
        raise ConfigError(f"{file} defines no task class '{wanted}'.{suggest(wanted, own)}")
    if not wanted and len(own) > 1:
        raise ConfigError(f"{file} defines the tasks {', '.join(own)}: write {file}:{next(iter(own))}")
    return own[wanted or next(iter(own))]


def _imported(path: Path) -> ModuleType:
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{path.name} cannot be run: {type(error).__name__}: {error}") from error
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise ConfigError(f"a module named '{name}' exists already: give {path.name} another name")
    return module
