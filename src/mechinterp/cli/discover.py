"""`mechinterp discover`: search the circuit of a Run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mechinterp.cli.options import Json, RunFolder, Step, Values, choose, given, takes

CIRCUIT_FILE = "circuit.json"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("discover")(discover)


@takes("discover")
def discover(
    run: RunFolder,
    method: Annotated[str, typer.Option("--method", help="acdc or top-k.")] = "top-k",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="acdc: remove an edge if the metric falls by less than this (0.02)."),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="top-k: number of edges.")] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="top-k without --k: share of the gap to recover (0.9).")
    ] = None,
    step: Step = None,
    out: Annotated[str, typer.Option("--out", help=f"File to write (RUN/{CIRCUIT_FILE}).")] = "",
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Search for the circuit that does the task, and write it into the Run's folder."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.discovery import discover as search
    from mechinterp.training.files import write_atomic

    chosen = choose("discover", run, step, options)
    settings = given(threshold=threshold, k=k, share=share, **chosen.options)
    with waiting("searching the circuit"):
        circuit = search(chosen.model, chosen.pair, method=method, **settings)
    circuit = replace(circuit, origin={**circuit.origin, **chosen.origin})
    path = Path(out) if out else Path(run) / CIRCUIT_FILE
    write_atomic(path, (json.dumps(circuit.to_dict(), indent=2) + "\n").encode())
    if as_json:
        emit({"file": path, "size": len(circuit), **circuit.to_dict()})
        return
    rows = [[str(edge.source), str(edge.reader)] for edge in circuit]
    table(f"Circuit of {run}: {len(circuit)} edges, by {method}", ["from", "to"], rows, [f"written to {path}"])
