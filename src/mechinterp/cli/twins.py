"""`mechinterp twins`: each seed trained plainly and with interventions, from one file that declares it all."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.output import CommandOutput

_NAMES = ("task", "model", "training", "seeds", "out", "direction", "under", "seed", "interventions", "milestones")


def twins(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.toml",
            help="Declares task, seeds, out, [[interventions]] and [[milestones]]; direction, under, [model] and "
            "[training] if they are not the preset's.",
        ),
    ],
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 is one per core.")] = 0,
) -> CommandOutput:
    """Train pairs of runs that differ by interventions alone, and measure by how much these move dates."""
    from mechinterp.core import ConfigError, read_table, suggest
    from mechinterp.studies import twins as compare
    from mechinterp.tasks import from_dict

    data = read_table(file, "toml", ConfigError)
    for name in data:
        if name not in _NAMES:
            raise ConfigError(f"{file}: no '{name}'.{suggest(name, _NAMES)}")
    for name in ("task", "seeds", "out", "interventions", "milestones"):
        if name not in data:
            raise ConfigError(f"{file}: '{name}' is missing")
    task, seeds = data.pop("task"), data.pop("seeds")
    chosen = from_dict({"name": task} if isinstance(task, str) else _table(file, "task", task))
    parts = {name: _tables(file, name, data.pop(name)) for name in ("interventions", "milestones")}
    for name, kinds, words in _TYPES:
        if not isinstance(data.get(name, kinds[0]()), kinds):
            raise ConfigError(f"{file}: {name} is {words}, not {data[name]!r}")
    numbers = list(range(seeds)) if isinstance(seeds, int) else seeds
    if not isinstance(numbers, list) or not all(type(one) is int for one in numbers):
        raise ConfigError(f"{file}: seeds are how many (3), or a list of them ([0, 1, 2]), not {seeds!r}")
    result = compare(
        chosen,
        parts["interventions"],
        parts["milestones"],
        seeds=numbers,
        workers=workers or None,
        progress=True,
        **data,
    )  # type: ignore[arg-type]
    dates = result.dates.transpose("date", "arm", "seed")
    answer = {**result.attrs, "seeds": numbers, "dates": result.rows()}
    answer |= {name: dates[name] for name in ("step", "clear")}
    answer["declared_interventions"] = [one.model_dump(mode="json") for one in result.declaration.interventions]
    notes = [f"{name}: {shift}" for name, shift in result.shifts.items()]
    return CommandOutput(answer, result.headline, result.rows(), notes)


_TYPES = (
    ("out", (str,), "a folder"),
    ("model", (dict,), "a table"),
    ("training", (dict,), "a table"),
    ("direction", (str,), "'earlier' or 'later'"),
    ("under", (bool,), "true or false"),
    ("seed", (int,), "a whole number"),
)


def _table(file: str, name: str, value: object) -> dict[str, object]:
    from mechinterp.core import ConfigError

    if not isinstance(value, dict):
        raise ConfigError(f"{file}: {name} is a table: write [{name}] and its settings under it")
    return value


def _tables(file: str, name: str, value: object) -> list[dict[str, object]]:
    from mechinterp.core import ConfigError

    if not isinstance(value, list):
        raise ConfigError(f"{file}: write each of the {name} under a line [[{name}]]")
    return [_table(file, name, one) for one in value]
