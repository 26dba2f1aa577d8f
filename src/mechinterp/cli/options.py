"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a Run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the examples.")]
Examples = Annotated[int, typer.Option("--examples", help="Examples to look at.")]
Step = Annotated[int | None, typer.Option("--step", help="Checkpoint; the last one by default.")]
Corruption = Annotated[str, typer.Option("--corruption", help="Of the pairs: one of the task's, or all mixed.")]
Metric = Annotated[str | None, typer.Option("--metric", help="See `mechinterp list metrics`.")]
Ablation = Annotated[str, typer.Option("--ablation", help="What absent edges carry: resample, mean, mean-pos, zero.")]


def given(**settings: Any) -> dict[str, Any]:
    """Only the settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}
