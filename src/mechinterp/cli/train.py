"""`mechinterp train`: one run, or several seeds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, no_type_check

import typer

from mechinterp.cli.flags import KEY, is_file
from mechinterp.cli.output import CommandOutput
from mechinterp.cli.table import load, settings_of
from mechinterp.cli.trace import parse

if TYPE_CHECKING:
    from mechinterp.tasks import Task
    from mechinterp.timeline import Measuring
    from mechinterp.training import Run
    from mechinterp.training.interventions import AnyIntervention

_SECTIONS = ("task", "model", "training")
_INTERVENTIONS = "interventions"
Values = dict[str, object]


@no_type_check  # the parser hands over a context of its own, unexported class
def train(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(metavar="[TASK]", help="Task, see `mechinterp list tasks`; or FILE.py:CLASS.")
    ] = "",
    out: Annotated[
        str, typer.Option("--out", help="Folder of the Run (with --seeds: of the Runs); runs/TASK-SEED by default.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights and data, the first one with --seeds.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, several at once in processes.")] = 1,
    workers: Annotated[int, typer.Option("--workers", help="Processes; 0 is one per core.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")] = False,
    measures: Annotated[
        list[str],
        typer.Option("--measures", help="Measures to take at each checkpoint, as for `trace`, which then reads them."),
    ] = [],  # noqa: B006  (the parser reads it, nothing writes to it)
    keep: Annotated[
        str, typer.Option("--keep", help="Steps whose weights stay, separated by commas, or 'last'; all by default.")
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            "--config", help="TOML file with tables [task], [model], [training], [[interventions]]; flags win over it."
        ),
    ] = "",
    intervene: Annotated[
        str, typer.Option("--intervene", help="TOML file with tables [[interventions]]: what to change in training.")
    ] = "",
) -> CommandOutput:
    """Train a transformer on a task. Settings that are not given come from the task's preset."""
    from mechinterp.training import train as train_one
    from mechinterp.training import train_many

    chosen, model, training = settings(task, config, context.meta[KEY])
    common = {"model": model, "training": training, "resume": resume, "progress": True}
    common["interventions"] = interventions(config, intervene)
    common |= {"keep": _steps(keep), "at_checkpoint": _measuring(measures)}
    if seeds == 1:
        runs = [train_one(chosen, seed=seed, out=out or None, **common)]
    else:
        several, folder = list(range(seed, seed + seeds)), out or f"runs/{chosen.name}"
        runs = train_many(chosen, seeds=several, out=folder, workers=workers or None, **common)
    rows = [_outcome(run) for run in runs]
    losses = [name for name in rows[0] if name.startswith("loss")]
    columns = ["seed", "steps", *losses, "checkpoints", "folder"]
    shown = [{name: row[name] for name in columns} for row in rows]
    return CommandOutput(
        {"task": chosen.to_dict(), "runs": rows}, f"Trained on {chosen.name} (losses in {chosen.unit})", shown
    )


def settings(task: str, config: str, flags: dict[str, str | bool]) -> tuple[Task, Values, Values]:
    """The task, and the settings of model and training that were given, by file or by flag.

    Raises:
        ConfigError: If a file, setting or task is not what it should be.
    """
    from mechinterp import tasks
    from mechinterp.core import ConfigError, suggest

    sections = _from_file(config) if config else {name: {} for name in _SECTIONS}
    named = str(sections["task"].pop("name", ""))
    if task and named and task != named:
        raise ConfigError(f"the task is '{task}' on the command line and '{named}' in {config}: name it once")
    name = task or named
    if not name:
        raise ConfigError(f"no task is named.{suggest('', tasks.names())}")
    kind = tasks.from_file(name) if is_file(name) else tasks.task_class(name)
    name, rows = kind.name, {**load(), f"task {kind.name}": settings_of(kind)}
    fits = {group: {row["name"]: row["kind"] for row in part} for group, part in rows.items()}
    for setting, value in flags.items():
        group = next((part for part in ("model", "training", f"task {name}") if setting in fits.get(part, ())), None)
        if group is None:
            raise ConfigError(
                f"task '{name}' has no setting '{setting}'.{suggest(setting, fits.get(f'task {name}', ()))}"
            )
        sections[group.split()[0]][setting] = _value(value, fits[group][setting])
    return kind(**sections["task"]), sections["model"], sections["training"]


def _steps(keep: str) -> list[int] | None:
    from mechinterp.core import ConfigError

    if keep in ("", "last"):
        return [] if keep else None
    try:
        return [int(step) for step in keep.split(",")]
    except ValueError:
        raise ConfigError(f"--keep {keep}: write steps separated by commas, or 'last'") from None


def _measuring(measures: list[str]) -> Measuring | None:
    from mechinterp.timeline import Measuring

    parsed = [one for text in measures for one in parse(text)]
    return Measuring.of(parsed) if parsed else None


def interventions(config: str, intervene: str) -> tuple[AnyIntervention, ...]:
    """The interventions of the files that a command line names.

    Raises:
        ConfigError: If a file has none, or one of them has no meaning.
    """
    from mechinterp.core import ConfigError, read_table
    from mechinterp.training.interventions import as_interventions

    listed: list[object] = []
    for flag, file in (("--config", config), ("--intervene", intervene)):
        data = read_table(file, "toml", ConfigError) if file else {}
        tables = data.get(_INTERVENTIONS, [])
        if not isinstance(tables, list):
            raise ConfigError(f"{flag} {file}: write each intervention under a line [[{_INTERVENTIONS}]]")
        if flag == "--intervene" and file and (not tables or len(data) > 1):
            raise ConfigError(f"{flag} {file}: it holds tables [[{_INTERVENTIONS}]] and nothing else")
        listed += tables
    return as_interventions(listed)


def _value(text: str | bool, kind: str) -> object:
    """What a flag says; a text that is no number stays one, and the setting says what it wants."""
    if isinstance(text, bool):
        return text
    if text.lower() == "none":
        return None
    if kind == "list":
        return [part for part in text.split(",") if part]
    try:
        return {"int": int, "float": float}.get(kind, str)(text)
    except ValueError:
        return text


def _from_file(config: str) -> dict[str, Values]:
    from mechinterp.core import ConfigError, read_table, suggest

    data = read_table(config, "toml", ConfigError)
    sections: dict[str, Values] = {name: {} for name in _SECTIONS}
    for name, part in data.items():
        if name == _INTERVENTIONS:
            continue
        if name not in _SECTIONS:
            raise ConfigError(f"--config {config}: no table [{name}].{suggest(name, [*_SECTIONS, _INTERVENTIONS])}")
        if not isinstance(part, dict):
            raise ConfigError(f"--config {config}: {name} is a table: write [{name}] and its settings under it")
        sections[name] = dict(part)
    return sections


def _outcome(run: Run) -> Values:
    metrics = run.metrics()
    last = {str(name): float(metrics[name][-1]) for name in metrics.data_vars if str(name).startswith("loss")}
    about = {"seed": run.seed, "status": run.status, "steps": run.steps[-1], "checkpoints": len(run.steps)}
    return {"folder": str(run.path), **about, **last, "weights": run.weights_hash()[:16]}
