"""What the help texts show, as data: help must answer without importing torch.

`settings.json` lists every setting that `train` takes, `options.json` every shared option of the other verbs. Both are
generated (`python -m mechinterp.cli.table`), and a test compares them with the settings and options themselves.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Literal,
    NamedTuple,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
)

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

FILE = Path(__file__).with_name("settings.json")
OPTIONS_FILE = Path(__file__).with_name("options.json")


class SettingRow(TypedDict):
    """A setting or option: what is written behind its flag, its default, its meaning, and its words if they are few."""

    name: str
    kind: str
    default: object
    help: str
    choices: NotRequired[list[str]]


PAIR = ("corruption", "examples", "seed")
"""The options that a verb draws its pair with."""


class Verb(NamedTuple):
    """Which shared options a verb takes.

    Args:
        options: Their names, in the order of the help text.
        functions: What a default is called in the help text -> the API function that it is a default of. Where the
            function has no such parameter, the default is the one of `OPTIONS`.
        defaults: Defaults that only the command line has.
        step: Whether it reads one checkpoint, and so takes `--step`.
    """

    options: tuple[str, ...]
    functions: dict[str, str]
    defaults: Mapping[str, object] = MappingProxyType({})
    step: bool = True


INTERVENTION = ("metric", "direction", "ablation", "inputs")
VERB_OPTIONS = {
    "trace": Verb(("seed",), {"": "trace"}, step=False),
    "patch": Verb(
        ("site", "at", *INTERVENTION, "budget_mb", *PAIR), {"for nodes": "patch_nodes", "for edges": "patch_edges"}
    ),
    "estimate": Verb(
        ("site", "at", *INTERVENTION, "budget_mb", *PAIR),
        {"for nodes": "estimate_nodes", "for edges": "estimate_edges"},
    ),
    "discover": Verb(("metric", "ablation", "inputs", "share", *PAIR), {"": "discover"}, {"seed": 0}),
    # A circuit is discovered on the pairs of seed 0, and may not be evaluated on them.
    "evaluate": Verb(("metric", "ablation", "nulls", "untrained", *PAIR), {"": "evaluate"}, {"seed": 1}),
    "probe": Verb(("site", "metric", "examples", "seed"), {"": "probe"}),
    "study": Verb(("examples", "nulls", "untrained", "seed"), {"": "study"}, step=False),
    "report": Verb(("seed",), {"": "study"}, step=False),
}
"""The one place that says which verb takes which shared option."""
TAKES_OWN_TASK = (*VERB_OPTIONS, "verify", "list")
"""Verbs that take `--task`; `train` names the task as its argument."""


@cache
def load() -> dict[str, list[SettingRow]]:
    """Group (`model`, `training`, `task <name>`) -> rows: name, kind, default, help, and choices where they are few."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def load_options() -> dict[str, list[SettingRow]]:
    """Verb -> rows as those of `load`, one for each shared option that it takes."""
    return json.loads(OPTIONS_FILE.read_text(encoding="utf-8"))


def about(row: SettingRow) -> str:
    """The help text of a row, with its default."""
    default = row["default"]
    if default is None:
        return row["help"]
    if isinstance(default, list | tuple):
        default = ",".join(map(str, default))
    return f"{row['help']} ({str(default).lower() if row['kind'] == 'bool' else default})"


def dashed(name: str) -> str:
    """A name as flags spell it."""
    return name.replace("_", "-")


def describe() -> dict[str, list[SettingRow]]:
    """What `load` returns, read off the settings themselves (imports torch)."""
    from mechinterp import tasks
    from mechinterp.models import ModelConfig
    from mechinterp.training import TrainConfig

    # The tasks that ship, which the room exports; a user's own are not known when help is printed, and one whose
    # settings must be given (prompts) takes them from a file.
    shipped = [part for part in vars(tasks).values() if isinstance(part, type) and issubclass(part, tasks.Task)]
    groups: dict[str, type[BaseModel]] = {"model": ModelConfig, "training": TrainConfig}
    whole = [cls for cls in shipped if not any(item.is_required() for item in cls.model_fields.values())]
    groups |= {f"task {cls.name}": cls for cls in whole if cls is not tasks.Task}
    rows = {group: settings_of(cls) for group, cls in groups.items()}
    return json.loads(json.dumps(rows))  # JSON knows lists, and no tuples


def settings_of(settings: type[BaseModel]) -> list[SettingRow]:
    """The rows of one class of settings."""
    return [_setting(name, field) for name, field in settings.model_fields.items()]


def describe_options() -> dict[str, list[SettingRow]]:
    """What `load_options` returns, read off `OPTIONS` and the signatures of the API (imports torch)."""
    return {name: [_option(option, verb) for option in verb.options] for name, verb in VERB_OPTIONS.items()}


def _setting(name: str, field: FieldInfo) -> SettingRow:
    kind, choices = _kind(field.annotation)
    default = None if field.is_required() else field.default
    return _row(name, kind, default, field.description or "", choices)


def _option(name: str, verb: Verb) -> SettingRow:
    from mechinterp.core import OPTIONS

    option = OPTIONS[name]
    return _row(name, _kind(option.kind)[0], _default(name, verb), option.help, option.words)


def _default(name: str, verb: Verb) -> object:
    """The default of an option; where the functions of a verb differ, a text that says so."""
    import mechinterp as mi
    from mechinterp.core import OPTIONS

    if name in verb.defaults:
        return verb.defaults[name]
    signatures = {called: inspect.signature(getattr(mi, function)) for called, function in verb.functions.items()}
    defaults = {called: of.parameters[name].default for called, of in signatures.items() if name in of.parameters}
    if len(set(defaults.values())) > 1:
        return ", ".join(f"{default} {called}" for called, default in defaults.items())
    default = next(iter(defaults.values()), None)
    return OPTIONS[name].default if default is None else default


def _row(name: str, kind: str, default: object, help_: str, choices: Iterable[str]) -> SettingRow:
    row: SettingRow = {"name": name, "kind": kind, "default": default, "help": help_}
    if choices:
        row["choices"] = list(choices)
    return row


def _kind(annotation: object) -> tuple[str, list[str]]:
    """What to write behind the flag."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
        return _kind(annotation)
    if get_origin(annotation) is Literal:
        return "choice", [str(part) for part in get_args(annotation)]
    if get_origin(annotation) in (tuple, list):
        return "list", []
    return next((kind.__name__ for kind in (int, float, bool) if annotation is kind), "text"), []


def _write() -> None:
    for file, rows in ((FILE, describe()), (OPTIONS_FILE, describe_options())):
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
