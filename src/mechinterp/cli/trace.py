"""`mechinterp trace`: measures at every checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput

if TYPE_CHECKING:
    from mechinterp.measures import Measure


def trace(
    chosen: Chosen,
    measures: Annotated[
        list[str],
        typer.Option(
            "--measures",
            help="Names of measures, separated by commas; with parameters, one measure per option: "
            "'edge_effects metric=kl examples=64'. See `mechinterp list measures`.",
        ),
    ] = ["loss", "head_scores"],  # noqa: B006  (the parser reads it, nothing writes to it)
    on: Annotated[str, typer.Option("--on", help="Measure on this variant of the task.")] = "",
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Measure few checkpoints, and more only where a value moves.")
    ] = False,
    interventions: Annotated[
        bool, typer.Option("--interventions", help="Measure under the interventions of the Run's training.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that share the checkpoints; 0 is one per core.")
    ] = 1,
) -> CommandOutput:
    """Measure every checkpoint of a Run. Values that an earlier call measured are kept."""
    from mechinterp.core import usable_cores
    from mechinterp.timeline import trace as measure_all

    parsed = [measure for text in measures for measure in parse(text)]
    steps = "adaptive" if adaptive else None
    how = {"on": on or None, "steps": steps, "workers": workers or usable_cores(), "interventions": interventions}
    timeline = chosen.call("a trace", measure_all, chosen.run, parsed, **how)
    data = {
        "run": chosen.folder,
        "seed": timeline.attrs["seed"],
        "steps": timeline["step"],
        "left_out": timeline.attrs["left_out"],
        "interventions": timeline.attrs.get("interventions"),
        "coords": {str(name): timeline[name] for name in timeline.coords},
    }
    series = {str(name): timeline[name] for name in timeline.data_vars if f"{name}_se" in timeline.data_vars}
    values = {name: {"dims": list(one.dims), "values": one} for name, one in series.items()}
    rows = [
        {
            "measure": name,
            "dimensions": ", ".join(f"{dim} {size}" for dim, size in one.sizes.items()),
            "mean at the first step": float(one.isel(step=0).mean()),
            "mean at the last": float(one.isel(step=-1).mean()),
        }
        for name, one in series.items()
    ]
    left_out = timeline.attrs["left_out"]
    notes = [f"{left_out} checkpoints between which nothing moves were left out"] if left_out else []
    return CommandOutput({**data, "measures": values}, f"Traced {chosen.folder}", rows, notes)


def parse(text: str) -> list[Measure]:
    """Measures written as `loss,head_scores` or as `edge_effects metric=kl examples=64`.

    Raises:
        ConfigError: If a word is neither, or a measure or parameter does not exist.
    """
    from mechinterp.core import ConfigError
    from mechinterp.measures import measure

    head, *words = text.split()
    if not words:
        return [measure(name) for name in head.split(",") if name]
    params = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or "," in head:
            raise ConfigError(f"--measures '{text}': write one measure, then its parameters as name=value")
        params[name] = _value(value)
    return [measure(head, **params)]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
