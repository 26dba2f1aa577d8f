"""`mechinterp patch`: exact effects of nodes and edges."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.effects import Out, Top, measure_effects, show_effects
from mechinterp.cli.options import Json, RunFolder, Step, Values, choose, takes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("patch")(patch)


@takes("patch")
def patch(
    run: RunFolder,
    edges: Annotated[bool, typer.Option("--edges", help="Patch every edge instead of nodes.")] = False,
    edge: Annotated[
        list[str] | None,
        typer.Option("--edge", help="Patch this edge, as 'L0.H1->L1.H0.k'; give the option once for each edge."),
    ] = None,
    step: Step = None,
    top: Top = 20,
    out: Out = "",
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Measure the exact effect of every node of a site, or of edges."""
    from mechinterp.patching import patch_edges, patch_nodes

    chosen = choose("patch", run, step, options)
    if edges or edge:
        effects = measure_effects("edges", patch_edges, chosen, edges=edge or None)
    else:
        effects = measure_effects("nodes", patch_nodes, chosen)
    show_effects(effects, chosen, top, out, as_json)
