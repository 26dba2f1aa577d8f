"""One flag for every setting of model, training and task: listed in help, taken out of the command line.

The parser proper never sees them. A flag per setting through it would cost help a third of its time, and what a value
may be is already said once, by the settings themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand
from typer.exceptions import TyperException

from mechinterp.cli.table import SettingRow, about, dashed, load, settings_of

SHORT = {"n_layers": "layers", "n_heads": "heads"}
WORDS = {"int": "INTEGER", "float": "NUMBER", "text": "TEXT", "list": "A,B,..."}
KEY = "mechinterp.settings"


class SettingsCommand(TyperCommand):
    """A command that also takes every setting as a flag; they end up in `context.meta[KEY]`, as texts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the flags of settings out; the parser reads the rest."""
        own = {name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)}
        ctx.meta[KEY], rest = take(args, own, _settings_of_own_task(args))
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The command's own options, then one section per group of settings."""
        super().format_options(ctx, formatter)
        for group, rows in load().items():
            with formatter.section(f"{group.capitalize()} settings"):
                formatter.write_dl([(_flag(row), about(row)) for row in rows])


def take(
    words: list[str], own: set[str] | None = None, more: Sequence[SettingRow] = ()
) -> tuple[dict[str, str | bool], list[str]]:
    """Separate the flags of settings from the other words.

    Args:
        words: Words of a command line.
        own: Options of the command itself, to suggest from when a flag is unknown.
        more: Settings beyond those that the package knows: of a user's task.

    Returns:
        Setting -> text (True or False for a switch), and the other words in their order.

    Raises:
        TyperException: If a flag is unknown, has no value, or comes twice with different values.

    >>> take(["induction", "--layers", "1", "--no-causal", "--lr=3e-3", "--json"])
    ({'n_layers': '1', 'causal': False, 'lr': '3e-3'}, ['induction', '--json'])
    """
    known = _known([*load().values(), more])
    settings: dict[str, str | bool] = {}
    rest: list[str] = []
    queue = iter(words)
    for word in queue:
        flag, equals, value = word.partition("=")
        if flag not in known:
            if own is not None and flag.startswith("--") and flag not in own:
                raise TyperException(f"no option '{flag}'.{_near(flag, [*known, *own])}")
            rest.append(word)
            continue
        name, switch = known[flag]
        content: str | bool = value if switch is None else switch
        if switch is None and not equals:
            content = next(queue, "--")
            if content.startswith("--"):
                raise TyperException(f"option '{flag}' needs a value")
        elif switch is not None and equals:
            raise TyperException(f"option '{flag}' takes no value: write --{dashed(name)} or --no-{dashed(name)}")
        if settings.setdefault(name, content) != content:
            raise TyperException(f"option '{flag}' is given twice: {settings[name]} and {content}")
    return settings, rest


def _settings_of_own_task(words: list[str]) -> list[SettingRow]:
    """The settings of a task that is named by its file; the file is run, which takes torch."""
    if not words or not is_file(words[0]):
        return []
    from mechinterp.tasks import from_file

    return settings_of(from_file(words[0]))


def is_file(task: str) -> bool:
    """Whether a task is named by its file, as `FILE.py:CLASS`.

    >>> is_file("my_tasks.py:Sort"), is_file("induction")
    (True, False)
    """
    return task.partition(":")[0].endswith(".py")


def _known(groups: Iterable[Sequence[SettingRow]]) -> dict[str, tuple[str, bool | None]]:
    """Flag -> setting, and what a switch sets it to."""
    flags: dict[str, tuple[str, bool | None]] = {}
    for rows in groups:
        for row in rows:
            name, switch = row["name"], row["kind"] == "bool"
            for spelled in (name, short(name)):
                flags[f"--{dashed(spelled)}"] = (name, True if switch else None)
                if switch:
                    flags[f"--no-{dashed(spelled)}"] = (name, False)
    return flags


def short(name: str) -> str:
    """What the flag of a setting is called in help."""
    return SHORT.get(name, name)


def _flag(row: SettingRow) -> str:
    name = dashed(short(row["name"]))
    if row["kind"] == "bool":
        return f"--{name} / --no-{name}"
    return f"--{name} [{'|'.join(row['choices'])}]" if "choices" in row else f"--{name} {WORDS[row['kind']]}"


def _near(flag: str, known: list[str]) -> str:
    close = difflib.get_close_matches(flag, known, n=2)
    if not close:
        return " See --help."
    from mechinterp.core import in_words

    return f" Did you mean {in_words(close)}?"
