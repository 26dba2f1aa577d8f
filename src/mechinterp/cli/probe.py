"""`mechinterp probe`: what a linear probe reads, and whether the model uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput

if TYPE_CHECKING:
    import xarray as xr

PROBE_SCORES = ("score", "score_low", "score_high", "majority", "untrained", "shuffled", "control", "erased")
HEADINGS = {
    "score_low": "low",
    "score_high": "high",
    "effect": "erasure cost",
    "effect_low": "cost low",
    "effect_high": "cost high",
    "effect_random": "random cost",
}
"""Name of a number -> heading of its column, where they differ."""


def probe(
    chosen: Chosen,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Hidden variable of the task, a latent.", show_default=False)
    ],
    layer: Annotated[
        list[int] | None, typer.Option("--layer", help="Layer to probe; give the option once for each (all layers).")
    ] = None,
    fit_on: Annotated[
        str, typer.Option("--fit-on", help="Fit on sequences of this group of the task alone, as train (all).")
    ] = "",
    score_on: Annotated[
        str, typer.Option("--score-on", help="Score sequences of this group of the task alone, as test (all).")
    ] = "",
) -> CommandOutput:
    """Read a hidden variable off a site with a linear probe, beside its nulls, and erase it."""
    from mechinterp.probes import probe as read_latent

    asked = {"target": target, "layer": layer or None, "fit_on": fit_on or None, "score_on": score_on or None}
    scores = chosen.call("probes", read_latent, chosen.model, chosen.run.task, **asked)
    layers = [_row(scores.sel(layer=number)) for number in scores["layer"].values]
    attrs = scores.attrs
    notes = [
        f"score: held-out {attrs['probe']}; cost: {attrs['metric']} lost by erasing the variable, or as many random "
        "directions; 95% intervals",
        *_left_out(attrs),
        *(attrs[name] for name in ("selectivity_reason", "erasure_reason") if attrs[name]),
    ]
    rows = [{HEADINGS.get(name, name): value for name, value in row.items()} for row in layers]
    title = f"{target} at {attrs['site']} in {chosen.folder}"
    return CommandOutput({**chosen.origin, **attrs, "layers": layers}, title, rows, notes)


def _left_out(attrs: Mapping[str, object]) -> list[str]:
    count, scored = attrs["positions_left_out"], attrs["positions_scored"]
    return [f"{count} positions left out of {scored} scored: a fitted sequence begins alike"] if count else []


def _row(scores: xr.Dataset) -> dict[str, float]:
    """One layer: the score, its nulls, the score after erasure, and what the erasure costs."""
    from mechinterp.core.statistics import mean_interval

    cost = mean_interval(scores["effect"].values)
    return {
        "layer": int(scores["layer"]),
        **{name: float(scores[name]) for name in PROBE_SCORES},
        **{"effect": cost.value, "effect_low": cost.low, "effect_high": cost.high},
        "effect_random": mean_interval(scores["effect_random"].values).value,
    }
