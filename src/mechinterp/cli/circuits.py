"""`mechinterp discover` and `mechinterp evaluate`: search the circuit of a Run, and say how good it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput

if TYPE_CHECKING:
    import xarray as xr

CIRCUIT_FILE = "circuit.json"


def discover(
    chosen: Chosen,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="top-k (by exact effect), exact-both-ways, eap, eap-ig, eap-ig-activations, clean-corrupted, "
            "information-flow, edge-pruning, random, acdc, greedy, greedy-swaps or smallest.",
        ),
    ] = "top-k",
    k: Annotated[int | None, typer.Option("--k", help="Number of edges at most, instead of a share.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="acdc: remove an edge if the metric falls by less than this (0.02)."),
    ] = None,
    two_sided: Annotated[bool, typer.Option("--two-sided", help="greedy: keep suppressors and backups, too.")] = False,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="eap-ig, eap-ig-activations: points (10); edge-pruning: updates (300)."),
    ] = None,
    penalty: Annotated[
        float | None, typer.Option("--penalty", help="edge-pruning: on open gates, in shares of the gap (1).")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="smallest: circuits to try at most (100000).")] = None,
    out: Annotated[str, typer.Option("--out", help=f"File to write (RUN/{CIRCUIT_FILE}).")] = "",
) -> CommandOutput:
    """Search for the circuit that does the task, and write it into the Run's folder."""
    from mechinterp.discovery import discover as search
    from mechinterp.training.files import write_atomic

    settings = {
        "method": method, "k": k, "threshold": threshold, "two_sided": two_sided or None, "steps": steps,
        "penalty": penalty, "limit": limit,
    }  # fmt: skip
    circuit = chosen.call("circuits", search, chosen.model, chosen.pair, **settings)
    circuit = replace(circuit, origin={**circuit.origin, **chosen.origin})
    path = Path(out) if out else Path(chosen.folder) / CIRCUIT_FILE
    write_atomic(path, (json.dumps(circuit.to_dict(), indent=2) + "\n").encode())
    rows = [{"from": str(edge.source), "to": str(edge.reader)} for edge in circuit]
    title = f"Circuit of {chosen.folder}: {len(circuit)} edges, by {method}"
    return CommandOutput({"file": path, "size": len(circuit), **circuit.to_dict()}, title, rows, [f"written to {path}"])


def evaluate(
    chosen: Chosen,
    circuit: Annotated[str, typer.Option("--circuit", help=f"File that `discover` wrote (RUN/{CIRCUIT_FILE}).")] = "",
) -> CommandOutput:
    """Score a circuit on pairs it was not discovered on, beside random circuits of its size."""
    from mechinterp.core import Circuit
    from mechinterp.evaluation import evaluate as score_circuit

    judged = Circuit.from_file(Path(circuit) if circuit else Path(chosen.folder) / CIRCUIT_FILE)
    nouns = (chosen.model, chosen.pair, judged)
    score = chosen.call("the circuit", score_circuit, *nouns, seed=chosen.drawn["seed"])
    attrs = score.attrs
    below = "95% of random circuits stay below"
    rows = [
        {"": "circuit found", "value": attrs["found"]},
        _with_ends(score, "faithfulness", "faithfulness") | {below: float(score["null_faithfulness_p95"])},
        _with_ends(score, "removal cost", "removal_cost") | {below: float(score["null_removal_cost_p95"])},
        _with_ends(score, "gap", "gap"),
        {"": "edges, alive", "value": int(score["live_size"])},
        {"": "edges, of all alive", "value": int(score["live_edges"])},
        {"": "edges that change nothing", "value": int(score["idle_edges"])},
        {"": "edges not seen", "value": int(score["invisible_edges"])},
        {"": "p against random circuits", "value": float(score["null_p_value"])},
    ]
    pairs = len(chosen.pair) - attrs["left_out"]
    unit = f"shares of the gap in {attrs['metric']}, {attrs['ablation']} ablation, {pairs} pairs"
    other = attrs.get("found_with_metric")
    notes = [unit, attrs["found_reason"]]
    notes += [f"{attrs['left_out']} pairs left out: the circuit was found on them"] if attrs["left_out"] else []
    notes += [f"the circuit was found with {other}, and is judged by {attrs['metric']}"] if other else []
    if int(score["invisible_edges"]):
        notes.append("edges not seen: their source is the same in both runs under this ablation, so no effect can show")
    notes += [_group_note(score.isel(group=number)) for number in range(score.sizes["group"])]
    data = {"run": chosen.folder, **{str(name): score[name] for name in score.variables}, **attrs}
    return CommandOutput(data, f"Circuit of {chosen.folder}", rows, notes)


def _group_note(group: xr.Dataset) -> str:
    parts = str(group["group_parts"].item()).split("; ")
    alone = ", ".join(f"{float(group['part_effect'].sel(part=part)):.3g}" for part in parts)
    text = f"{group['group_text'].item()}: alone they cost {alone}, together {float(group['group_effect']):.3g}"
    inside = int(group["group_inside"])
    return text if inside == len(parts) else f"{text}; {inside} of {len(parts)} are in the circuit"


def _with_ends(score: xr.Dataset, title: str, name: str) -> dict[str, object]:
    numbers = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {"": title, **{heading: float(score[part]) for heading, part in numbers.items()}}
