"""`mechinterp twins`: each seed trained plainly and with interventions, from one file that declares it all."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.output import CommandOutput


def twins(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.toml",
            help="Declares task, seeds, out, [[interventions]] and [[milestones]]; expect, under, [model] and "
            "[training] if they are not the preset's.",
        ),
    ],
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 is one per core.")] = 0,
) -> CommandOutput:
    """Train pairs of runs that differ by interventions alone, and measure by how much these move dates."""
    from mechinterp.core import ConfigError, read_settings
    from mechinterp.studies import TwinsFile

    result = read_settings(file, "toml", TwinsFile, ConfigError).run(workers or None, progress=True)
    seeds = result.dates["seed"].values.tolist()
    answer = {**result.attrs, "seeds": seeds, "dates": result.rows()}
    answer |= {name: result.dates[name] for name in ("step", "clear")}
    answer["declaration"] = result.declaration.model_dump(mode="json")
    notes = [f"{name}: {shift}" for name, shift in result.shifts.items()]
    return CommandOutput(answer, result.headline, result.rows(), notes)
