"""`mechinterp estimate`: effects of nodes and edges by gradient."""

from __future__ import annotations

from typing import Annotated

import typer

from mechinterp.cli.effects import Out, Top, measure_effects, show_effects
from mechinterp.cli.options import Json, RunFolder, Step, Values, choose, given, takes


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("estimate")(estimate)


@takes("estimate")
def estimate(
    run: RunFolder,
    edges: Annotated[bool, typer.Option("--edges", help="Estimate every edge instead of nodes.")] = False,
    method: Annotated[
        str | None, typer.Option("--method", help="For edges: eap, eap-ig or clean-corrupted (eap-ig).")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="For eap-ig: points of the path (10).")] = None,
    step: Step = None,
    top: Top = 20,
    out: Out = "",
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Estimate the effect of every node of a site, or of every edge, by gradient."""
    from mechinterp.core import ConfigError, in_words
    from mechinterp.patching import estimate_edges, estimate_nodes

    settings = given(method=method, steps=steps)
    if settings and not edges:
        raise ConfigError(f"{in_words((f'--{name}' for name in settings), 'and')}: only for edges; add --edges")
    chosen = choose("estimate", run, step, options)
    if edges:
        effects = measure_effects("estimated edges", estimate_edges, chosen, **settings)
    else:
        effects = measure_effects("estimated nodes", estimate_nodes, chosen)
    show_effects(effects, chosen, top, out, as_json)
