"""`mechinterp find` and `mechinterp evaluate`: a Run's circuit, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mechinterp.cli.options import Ablation, Corruption, Examples, Json, Metric, RunFolder, Seed, Step, given

FILE = "circuit.json"


def register(app: typer.Typer) -> None:
    """Add both verbs."""
    app.command("find")(find)
    app.command("evaluate")(evaluate)


def find(
    run: RunFolder,
    method: Annotated[str, typer.Option("--method", help="acdc or top-k.")] = "top-k",
    threshold: Annotated[float | None, typer.Option("--threshold", help="ACDC: a fall that costs an edge.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="top-k: how many edges.")] = None,
    share: Annotated[float | None, typer.Option("--share", help="top-k without --k: of the gap to reach.")] = None,
    metric: Metric = None,
    ablation: Ablation = "resample",
    inputs: Annotated[str, typer.Option("--inputs", help="Embedding and positions: merged or split.")] = "merged",
    corruption: Corruption = "all",
    examples: Examples = 64,
    step: Step = None,
    seed: Seed = 0,
    out: Annotated[str, typer.Option("--out", help=f"Where to write; RUN/{FILE} by default.")] = "",
    as_json: Json = False,
) -> None:
    """Search the circuit that does the task, and keep it with the Run."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core import Circuit
    from mechinterp.discovery import discover
    from mechinterp.training import Run
    from mechinterp.training.files import write_atomic

    opened = Run(run)
    pair = opened.task.pair(examples, seed, corruption)
    settings = given(threshold=threshold, k=k, share=share, metric=metric)
    with waiting("searching the circuit"):
        found = discover(opened.model(step), pair, method=method, ablation=ablation, inputs=inputs, **settings)  # type: ignore[arg-type]
    about = {
        "run": str(run),
        "step": opened.steps[-1] if step is None else step,
        "seed": seed,
        "corruption": corruption,
    }
    found = Circuit(found.edges, found.inputs, {**found.origin, **about})
    path = Path(out) if out else Path(run) / FILE
    write_atomic(path, (json.dumps(found.to_dict(), indent=2) + "\n").encode())
    if as_json:
        emit({"file": path, "size": len(found), **found.to_dict()})
        return
    rows = [[str(edge.source), str(edge.reader)] for edge in found]
    table(f"Circuit of {run}: {len(found)} edges, by {method}", ["from", "to"], rows, [f"written to {path}"])


def evaluate(
    run: RunFolder,
    circuit: Annotated[str, typer.Option("--circuit", help=f"File that `find` wrote; RUN/{FILE} by default.")] = "",
    metric: Metric = "",
    ablation: Ablation = "resample",
    corruption: Corruption = "all",
    examples: Examples = 64,
    nulls: Annotated[int, typer.Option("--nulls", help="Random circuits to compare with.")] = 100,
    step: Step = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the pairs; not the one it was found with.")] = 1,
    as_json: Json = False,
) -> None:
    """Score a circuit on pairs it was not found on, beside random circuits of its size."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core import resolve_metric
    from mechinterp.evaluation import evaluate as judge
    from mechinterp.training import Run

    opened = Run(run)
    if metric:
        resolve_metric(metric)  # a misspelt word is told before anything is read or run
    found = read(Path(circuit) if circuit else Path(run) / FILE)
    pair = opened.task.pair(examples, seed, corruption)
    model = opened.model(step)
    with waiting("evaluating the circuit"):
        score = judge(model, pair, found, metric=metric or None, ablation=ablation, nulls=nulls, seed=seed)
    if as_json:
        emit({"run": run, **{str(name): score[name] for name in score.variables}, **score.attrs})
        return
    rows = [
        ["faithfulness", *_with_ends(score, "faithfulness"), float(score["null_faithfulness_p95"])],
        ["removal cost", *_with_ends(score, "removal_cost"), float(score["null_removal_cost_p95"])],
        ["gap", *_with_ends(score, "gap"), None],
        ["edges, alive", int(score["live_size"]), None, None, None],
        ["edges, of all alive", int(score["live_edges"]), None, None, None],
        ["p against random circuits", float(score["null_p_value"]), None, None, None],
    ]
    columns = ["", "value", "low", "high", "95% of random circuits stay below"]
    unit = f"shares of the gap in {score.attrs['metric']}, {score.attrs['ablation']} ablation, {examples} pairs"
    table(f"Circuit of {run}", columns, rows, [unit])


def read(path: Path) -> Any:
    """A circuit from a file.

    Raises:
        ConfigError: If there is none, or it is no circuit.
    """
    from mechinterp.core import Circuit, ConfigError

    try:
        return Circuit.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"no circuit at {path} ({error.strerror}): run `mechinterp find` first") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no circuit: {error}") from error


def _with_ends(score: Any, name: str) -> list[float]:
    return [float(score[name]), float(score[f"{name}_low"]), float(score[f"{name}_high"])]
