"""Every setting that `mechinterp train` takes, as data: help must list them without importing torch.

`settings.json` beside this file is what `describe` returns; a test compares them. After a setting has changed, write it
anew with `python -m mechinterp.cli.table`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

FILE = Path(__file__).with_name("settings.json")
Row = dict[str, Any]


def load() -> dict[str, list[Row]]:
    """Group (`model`, `training`, `task <name>`) -> rows: name, kind, default, help, and choices where they are few."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def describe() -> dict[str, list[Row]]:
    """The same, read off the settings themselves (imports torch)."""
    from mechinterp import tasks
    from mechinterp.models import ModelConfig
    from mechinterp.training import TrainConfig

    # The tasks that ship, which the room exports; a user's own are not known when help is printed.
    shipped = [part for part in vars(tasks).values() if isinstance(part, type) and issubclass(part, tasks.Task)]
    groups: dict[str, Any] = {"model": ModelConfig, "training": TrainConfig}
    groups |= {f"task {cls.name}": cls for cls in shipped if cls is not tasks.Task}
    found = {group: [_row(name, field) for name, field in cls.model_fields.items()] for group, cls in groups.items()}
    return json.loads(json.dumps(found))  # JSON knows lists, and no tuples


def _row(name: str, field: Any) -> Row:
    kind, choices = _kind(field.annotation)
    default = None if field.is_required() else field.default
    row = {"name": name, "kind": kind, "default": default, "help": field.description or ""}
    return row | {"choices": choices} if choices else row


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """What to write behind the flag."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = [part for part in get_args(annotation) if part is not NoneType]
        return _kind(annotation)
    if get_origin(annotation) is Literal:
        return "choice", [str(part) for part in get_args(annotation)]
    if get_origin(annotation) in (tuple, list):
        return "list", []
    return {int: "int", float: "float", bool: "bool"}.get(annotation, "text"), []


if __name__ == "__main__":
    FILE.write_text(json.dumps(describe(), indent=1) + "\n", encoding="utf-8")
