"""`mechinterp evaluate`: how good a circuit is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mechinterp.cli.discover import CIRCUIT_FILE
from mechinterp.cli.options import Json, RunFolder, Step, Values, choose, takes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate")(evaluate)


@takes("evaluate")
def evaluate(
    run: RunFolder,
    circuit: Annotated[str, typer.Option("--circuit", help=f"File that `discover` wrote (RUN/{CIRCUIT_FILE}).")] = "",
    step: Step = None,
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Score a circuit on pairs it was not discovered on, beside random circuits of its size."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core import Circuit
    from mechinterp.evaluation import evaluate as score_circuit

    judged = Circuit.from_file(Path(circuit) if circuit else Path(run) / CIRCUIT_FILE)
    chosen = choose("evaluate", run, step, options)
    with waiting("evaluating the circuit"):
        score = score_circuit(chosen.model, chosen.pair, judged, seed=chosen.seed, **chosen.options)
    if as_json:
        emit({"run": run, **{str(name): score[name] for name in score.variables}, **score.attrs})
        return
    rows = [
        ["circuit found", score.attrs["found"], None, None, None],
        ["faithfulness", *_with_ends(score, "faithfulness"), float(score["null_faithfulness_p95"])],
        ["removal cost", *_with_ends(score, "removal_cost"), float(score["null_removal_cost_p95"])],
        ["gap", *_with_ends(score, "gap"), None],
        ["edges, alive", int(score["live_size"]), None, None, None],
        ["edges, of all alive", int(score["live_edges"]), None, None, None],
        ["p against random circuits", float(score["null_p_value"]), None, None, None],
    ]
    columns = ["", "value", "low", "high", "95% of random circuits stay below"]
    attrs = score.attrs
    unit = f"shares of the gap in {attrs['metric']}, {attrs['ablation']} ablation, {len(chosen.pair)} pairs"
    other = attrs.get("found_with_metric")
    notes = [
        unit,
        attrs["found_reason"],
        *([f"the circuit was found with {other}, and is judged by {attrs['metric']}"] if other else []),
    ]
    table(f"Circuit of {run}", columns, rows, notes)


def _with_ends(score: Any, name: str) -> list[float]:
    return [float(score[name]), float(score[f"{name}_low"]), float(score[f"{name}_high"])]
