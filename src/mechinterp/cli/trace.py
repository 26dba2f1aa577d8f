"""`mechinterp trace`: measures at every checkpoint."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mechinterp.cli.options import Json, RunFolder, Values, takes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("trace")(trace)


@takes("trace")
def trace(
    run: RunFolder,
    measures: Annotated[
        list[str],
        typer.Option(
            "--measures",
            help="Names of measures, separated by commas; with parameters, one measure per option: "
            "'edge_effects metric=kl examples=64'. See `mechinterp list measures`.",
        ),
    ] = ["loss", "head_scores"],  # noqa: B006  (the parser reads it, nothing writes to it)
    on: Annotated[str, typer.Option("--on", help="Measure on this variant of the task.")] = "",
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Measure every checkpoint of a Run. Values that an earlier call measured are kept."""
    from mechinterp.cli.output import emit, table
    from mechinterp.core.progress import Bars
    from mechinterp.timeline import trace as measure_all
    from mechinterp.training import Run

    opened = Run(run)
    chosen = [measure for text in measures for measure in parse(text)]
    with Bars(True) as show:
        line = measure_all(opened, chosen, progress=show, on=on or None, **options)
    names = [str(name) for name in line.data_vars if f"{name}_se" in line.data_vars]
    if as_json:
        values = {name: {"dims": list(line[name].dims), "values": line[name]} for name in names}
        coords = {str(name): line[name] for name in line.coords}
        emit({"run": run, "seed": line.attrs["seed"], "steps": line["step"], "coords": coords, "measures": values})
        return
    rows = []
    for name in names:
        series = line[name]
        sizes = ", ".join(f"{dim} {size}" for dim, size in series.sizes.items())
        rows.append([name, sizes, float(series.isel(step=0).mean()), float(series.isel(step=-1).mean())])
    table(f"Traced {run}", ["measure", "dimensions", "mean at the first step", "mean at the last"], rows)


def parse(text: str) -> list[Any]:
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


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
