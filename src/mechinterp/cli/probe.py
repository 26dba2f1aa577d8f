"""`mechinterp probe`: what a linear probe reads, and whether the model uses it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mechinterp.cli.options import Json, RunFolder, Step, Values, given, takes

NULLS = ("majority", "untrained", "shuffled", "control")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("probe")(probe)


@takes("probe")
def probe(
    run: RunFolder,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Hidden variable of the task, a latent.", show_default=False)
    ],
    layer: Annotated[
        list[int] | None, typer.Option("--layer", help="Layer to probe; give the option once for each (all layers).")
    ] = None,
    step: Step = None,
    *,
    options: Values,
    as_json: Json = False,
) -> None:
    """Read a hidden variable off a site with a linear probe, beside its nulls, and erase it."""
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.probes import probe as read_latent
    from mechinterp.training import Run

    opened = Run(run)
    model = opened.model(step)
    with waiting(f"probing {target}"):
        scores = read_latent(model, opened.task, target=target, **given(layer=layer or None, **options))
    rows = [_row(scores.sel(layer=number)) for number in scores["layer"].values]
    attrs = scores.attrs
    if as_json:
        last = opened.steps[-1] if step is None else step
        emit({"run": run, "step": last, **attrs, "layers": rows})
        return
    columns = [
        "layer",
        "score",
        "low",
        "high",
        *NULLS,
        "erased",
        "erasure cost",
        "cost low",
        "cost high",
        "random cost",
    ]
    notes = [
        f"score: held-out {attrs['probe']}; cost: {attrs['metric']} lost by erasing the variable, or as many random "
        "directions; 95% intervals",
        *(attrs[name] for name in ("selectivity_reason", "erasure_reason") if attrs[name]),
    ]
    table(f"{target} at {attrs['site']} in {run}", columns, [list(row.values()) for row in rows], notes)


def _row(scores: Any) -> dict[str, Any]:
    """One layer: the score, its nulls, the score after erasure, and what the erasure costs."""
    from mechinterp.core.statistics import mean_interval

    cost = mean_interval(scores["effect"].values)
    names = ("score", "score_low", "score_high", *NULLS, "erased")
    return {
        "layer": int(scores["layer"]),
        **{name: float(scores[name]) for name in names},
        **{"effect": cost.value, "effect_low": cost.low, "effect_high": cost.high},
        "effect_random": mean_interval(scores["effect_random"].values).value,
    }
