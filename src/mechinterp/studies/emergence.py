"""What forms when: edges with an effect, heads that take over, latents that are read and used, order parameters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from mechinterp.curves import Leadership, dated_effects, leadership
from mechinterp.measures import measure
from mechinterp.studies.heads import null_of
from mechinterp.studies.latents import latent_line, read_and_used
from mechinterp.studies.part import Context, Finding, Part, row, words
from mechinterp.timeline import trace

LEAST_EFFECT = 0.1
"""Least effect of an edge or a head that counts: in nats; for real values a share of the untrained model's loss."""
_CHECKPOINTS = 24
"""At most so many checkpoints at which latents are erased, evenly among those of the Run."""
_WHERE = "all checkpoints"


def edges(context: Context) -> Part:
    """Which edges have an effect at some checkpoint, and since when; the look at all of them is paid for."""
    timeline = context.data["timeline"]
    if "edge_effects" not in timeline:
        return Part()
    least = _least(context)
    dates = dated_effects(timeline, "edge_effects", least)
    chosen = dates.isel(edge=np.flatnonzero(dates["selected"] & ~dates["censored"])).sortby("step")
    first = [f"{one['edge'].item()} at step {float(one):g}" for one in chosen["step"][:6]]
    level = f"{dates.attrs['level']:.0%}"
    note = (
        f"Farther than {least:.2g} from zero; false discovery rate {level} over all edges, dates over all checkpoints."
    )
    note += f" The first: {'; '.join(first)}." if first else ""
    count = chosen.sizes["edge"]
    outcome, n = "found" if count else "not found", _sequences(timeline, "edge_effects")
    total = f"of {dates.attrs['entries']}"
    finding = row("edges that get an effect", count, None, total, "edges", _WHERE, note, n=n, outcome=outcome)
    return Part({"edge-dates": dates}, [finding], "formed")


def leaders(context: Context) -> Part:
    """The head that leads each type, and each role by its effect; a takeover is a clear lead that lasts."""
    timeline, types = context.data["timeline"], context.data["heads"]
    results: dict[str, Leadership] = {}
    for name in types.attrs["declared"]:
        part = {end: timeline[f"head_scores{end}"].sel(score=name, drop=True) for end in ("", "_se", "_n")}
        results[f"{words(name)} score"] = leadership(*part.values(), least=null_of(types, name).p95)
    if "node_effects" in timeline:
        for role in timeline["role"].values if "role" in timeline["node_effects"].dims else [None]:
            part = [timeline[f"node_effects{end}"] for end in ("", "_se", "_n")]
            part = [one if role is None else one.sel(role=role, drop=True) for one in part]
            if np.isfinite(part[1].values).any():
                where = "effect" if role is None else f"effect at {words(role)}"
                results[where] = leadership(*part, least=_least(context))
    plain = {name: [vars(term) for term in one.terms] for name, one in results.items()}
    n = f"{timeline.sizes['step']} checkpoints"
    rows = [_leader_row(name, one, n) for name, one in results.items() if one.terms]
    return Part({"leaders": xr.Dataset(attrs={"terms": plain})}, rows, "formed")


def latents(context: Context) -> Part:
    """From which step on each latent can be read, and from which on the model uses it."""
    if not context.task.latents:
        return Part()
    steps = list(context.run.steps)
    fewer = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _CHECKPOINTS).round().astype(int))]
    line = trace(context.run, measure("latent_use", examples=64), context.seed, fewer, progress=context.show)
    if not np.isfinite(line["latent_use_se"].values).any():
        return Part({"latent-use": line})
    dates = read_and_used(line, least_used=_least(context))
    level = f"{dates.attrs['level']:.0%}"
    note = (
        f"At {line.sizes['step']} checkpoints; beyond shuffled labels, and beyond erasing as many random directions; "
        f"false discovery rate {level} over latents and layers, for each of the two."
    )
    rows = []
    for latent in map(str, dates["latent"].values):
        for layer in range(dates.sizes["layer"]):
            text = latent_line(dates, latent, layer).partition(": ")[2]
            dated = dates.isel(layer=layer).sel(latent=latent)
            outcome = "found" if bool((dated["selected"] & ~dated["censored"]).any()) else "not found"
            title, n = f"{words(latent)} after layer {layer}, over time", f"{line.sizes['step']} checkpoints"
            rows.append(row(title, text, where=_WHERE, note=note, n=n, outcome=outcome))
    return Part({"latent-use": line, "latent-dates": dates}, rows, "formed")


def order_parameters(context: Context) -> Part:
    """Single numbers that tell phases of training apart, by step, beside the loss."""
    series = dict(_order_series(context))
    rows = []
    for name, values in series.items():
        if name == "loss" or name.startswith("distance"):  # these have rows of their own
            continue
        first, last = float(values[0]), float(values[-1])
        if np.isfinite([first, last]).all():
            where, n = f"step {int(values['step'][-1])}", f"{values.sizes['step']} checkpoints"
            rows.append(row(name, last, None, first, "", where, "Null: step 0.", n=n))
    return Part({"order-parameters": xr.Dataset(series)}, rows)


def _least(context: Context) -> float:
    loss = context.data["timeline"]["loss"].isel(step=0, group=0)
    return LEAST_EFFECT * (1.0 if context.task.unit == "nats" else abs(float(loss)))


def _sequences(timeline: xr.Dataset, name: str) -> str:
    return f"{int(timeline[f'{name}_n'].max())} pairs at each of {timeline.sizes['step']} checkpoints"


def _leader_row(name: str, one: Leadership, n: str) -> Finding:
    note = (
        "A head leads if it is ahead of every other by more than the interval of the difference, for at least "
        f"{one.lasts:g} in ln t."
    )
    for early, late in one.takeovers:
        note += f" {late.head} takes over from {early.head} between steps {late.after:g} and {late.start:g}."
    return row(f"leading head by {name}", str(one), where=_WHERE, note=note, n=n)


def _order_series(context: Context) -> Iterator[tuple[str, xr.DataArray]]:
    timeline = context.data["timeline"]
    yield "loss", timeline["loss"].isel(group=0, drop=True)
    yield "in-context score", timeline["in_context_score"]
    yield "hidden similarity", timeline["hidden_similarity"].isel(layer=-1, drop=True)
    rank = timeline["qk_rank"] - timeline["qk_rank"].isel(step=0)
    for layer in range(rank.sizes["layer"]):
        yield f"QK rank minus its start, layer {layer}", rank.isel(layer=layer, drop=True).mean("head")
    if context.model.config.n_layers > 1:
        # A trace of its own: its edges are between heads alone, and those of the effects are all.
        z = trace(context.run, "composition", context.seed, progress=context.show)["composition"]
        ports = np.array([str(edge).rsplit(".", 1)[-1] for edge in z["edge"].values])
        for port in ("q", "k", "v"):
            yield f"largest {port.upper()}-composition, z", z.isel(edge=ports == port).max("edge")
    if "predictor_distance" in timeline:
        distance = timeline["predictor_distance"]
        nearest = int(np.nan_to_num(distance.isel(step=-1).values, nan=np.inf).argmin())
        name = words(distance["predictor"].values[nearest])
        yield f"distance from {name}", distance.isel(predictor=nearest, drop=True)
