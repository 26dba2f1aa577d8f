"""`mechinterp bench`: speed, against what people use, and the methods' exam."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.output import CommandOutput, number

if TYPE_CHECKING:
    from mechinterp.bench.timing import Figures

SHOWN = ("ratio", "low", "high", "target", "peer_seconds", "hooked_seconds", "minimal_seconds", "our_seconds",
         "step_seconds", "draw_seconds", "peer_peak_mb",
         "exact_over_eap_ig", "error", "seconds", "loading", "again", "peak_mb", "model_mb",
         "n", "called", "named", "yes", "undecided", "truth", "coverage", "width", "resolved", "failures",
         "auroc", "auroc_mean", "average_precision", "exact_recovery", "excess", "exam_seconds",
         "held_out", "held_out_low", "stability", "failed", "search_seconds")  # fmt: skip


ALONE = ("without_effects", "adaptive_over_training", "adaptive_steps", "checkpoints", "training_seconds",
         "dates_agree", "demo_dates_agree", "peak_mb", "best", "memory_ratio")  # fmt: skip
"""Figures that a benchmark gives once."""


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="training|patching|edges|scale|tasks|discovery|coverage|found|onset|trace|checkpoints",
            help="What to measure.",
            show_default=False,
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Run one small case once; its times mean nothing.")] = False,
    threads: Annotated[int, typer.Option("--threads", help="Threads of torch.")] = 1,
    trained: Annotated[
        str,
        typer.Option("--trained", help="discovery: folder of the Runs of all circuits' models, trained where missing."),
    ] = "",
) -> CommandOutput:
    """Compare speed with a peer library in one run, or examine searches for circuits on known ones (discovery) or
    how often intervals hold the truth (coverage), a circuit is found where there is none (found) or the onset of a
    simulated curve is right (onset), what a trace costs beside training (trace)
    or on checkpoints of another library (checkpoints)."""
    from mechinterp.bench import run

    # No spinner: its thread would run inside what is timed.
    typer.echo(f"measuring {name}", err=True)
    result = run(name, quick=quick, threads=threads, folder=Path(trained) if trained else None)
    notes = [
        f"{number(result['ratio'])} ({number(result['low'])} to {number(result['high'])}): {result['meaning']}",
        *[f"{name.replace('_', ' ')}: {number(result[name])}" for name in ALONE if name in result],
        *_clock(result),
        *_large(result),
    ]
    rows = [
        {"case": _case(row), **{figure.replace("_", " "): row[figure] for figure in SHOWN if figure in row}}
        for row in result["sizes"]
    ]
    return CommandOutput(result, f"bench {name}", rows, notes)


def _case(row: Figures) -> str:
    if "shape" in row:
        return f"{row['size']}: {row['shape']}"
    mlp = f" d_mlp {row['d_mlp']}," if row["d_mlp"] else ""
    wires = f", {row['edges']} {row['inputs']} edges" if "edges" in row else ""
    return (
        f"{row['layers']} layers, {row['heads']} heads, d_model {row['d_model']},{mlp} batch {row['batch']} x "
        f"{row['length']}, {row['scored']} scored{wires}"
    )


def _clock(result: Figures) -> list[str]:
    if result["name"] in ("discovery", "coverage", "onset", "trace", "checkpoints"):
        return []
    return [f"{result['clock']} of {result['threads']} thread(s); low and high: 10th and 90th percentile of blocks"]


def _large(result: Figures) -> list[str]:
    if "large" not in result:
        return []
    large = result["large"]
    return [
        f"{large['edges']} edges of {large['layers']} layers of {large['heads']} heads with MLPs, exact: "
        f"{large['seconds']:.1f} s, target < {large['target']:.0f} s"
    ]
