"""What interventions and probes say at the last step, on held-out data: circuit, nodes, hidden variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import xarray as xr

from mechinterp.attribution.head_types import head_entry
from mechinterp.core import Circuit
from mechinterp.core.progress import Progress
from mechinterp.core.statistics import ratio_of_means, t_interval
from mechinterp.evaluation import fewest_edges
from mechinterp.studies.causal import NO_PAIRS, SHARE, CircuitEvidence, circuit_evidence, has_pairs, read_latents
from mechinterp.studies.heads import best_of_type
from mechinterp.studies.part import CLEAR, Context, Finding, Part, row, words

HELD_OUT = "last step, held-out pairs"


def circuit(context: Context) -> Part:
    """The circuit, searched on one set of pairs and judged on another, and the effect of single heads."""
    if not has_pairs(context.task, context.seed):
        return Part({"circuit": pack_circuit(CircuitEvidence("undecided", NO_PAIRS, Circuit([])))})
    stage = _stages(context.show, "interventions", 3)
    numbers = {name: getattr(context, name) for name in ("seed", "examples", "nulls", "untrained")}
    result = circuit_evidence(context.model, context.task, **numbers, stage=stage)
    stage("")
    data = {"circuit": pack_circuit(result)}
    optional = {"nodes": result.nodes, "curve": result.curve, "evaluation": result.evaluation}
    data |= {name: part for name, part in optional.items() if part is not None}
    effects = context.data["timeline"]["node_effects"].isel(step=-1)
    rows = [*circuit_rows(result), *node_rows(result.nodes, best_of_type(context.data["heads"]), effects)]
    return Part(data, rows)


def probes(context: Context) -> Part:
    """Probes of the task's hidden variables, and the cost of erasing each."""
    stage = _stages(context.show, "probes", len(context.task.latents))
    results = read_latents(context.model, context.task, context.seed, context.examples, stage)
    stage("")
    return Part({f"probe-{name}": result for name, result in results.items()}, list(probe_rows(results)))


def pack_circuit(result: CircuitEvidence) -> xr.Dataset:
    """The circuit, and whether it is found, as the data of a part."""
    attrs = {"circuit": result.circuit.to_dict(), "fewest_edges": result.fewest_edges}
    return xr.Dataset(attrs=attrs | {"found": result.answer, "found_reason": result.reason})


def circuit_rows(result: CircuitEvidence) -> Iterator[Finding]:
    """The circuit's size, what it recovers and what its removal costs, beside random circuits."""
    judged, curve = result.evaluation, result.curve
    n = "" if judged is None else f"{judged.sizes['example']} pairs"
    reason = f"{result.reason[0].upper()}{result.reason[1:]}."
    yield row("circuit found", result.answer, where=HELD_OUT, note=reason, n=n)
    if judged is None or curve is None:
        return
    size, live, edges = (int(judged[name]) for name in ("live_size", "live_edges", "edges"))
    note = (
        f"The edges of largest exact effect that recover {SHARE:.0%} on the pairs of the search, under each corruption "
        f"alone; the model has {edges}."
    )
    if "invisible_edges" in judged:
        idle, invisible = (int(judged[name]) for name in ("idle_edges", "invisible_edges"))
        note += f" Of these {idle} change nothing, and {invisible} are not seen: their source is the same in both runs."
    yield row("edges in the circuit", size, None, f"of {live} live edges", "edges", "last step", note, n=n)
    k = fewest_edges(curve, SHARE)
    fewest = "none" if k is None else int(curve["size"].sel(k=k))
    name = f"edges that reach {SHARE:.0%} of the held-out gap"
    note = "The fewest by rank, for comparison with the circuit."
    yield row(name, fewest, None, f"of {live} live edges", "edges", HELD_OUT, note, n=n)
    count, p = judged.sizes["null"], float(judged["null_p_value"])
    note = f"Null: {count} other circuits of {size} edges of whole paths, 95th percentile; p = {p:.2g}."
    if not count:
        note = "The circuit holds every live edge, so there is no other to compare it with."
    if left_out := judged.attrs.get("left_out"):
        note += f" {left_out} held-out pairs are left out: the search saw them, too."
    chance = _percentile(judged, "null_faithfulness_p95")
    yield row("gap recovered by the circuit", *_with_ends(judged, "faithfulness"), chance, "%", HELD_OUT, note, n=n)
    for kind in judged["corruption"].values if "corruption" in judged.coords else []:
        name = f"... on pairs of corruption {words(kind)} alone"
        yield row(name, *_with_ends(judged.sel(corruption=kind), "corruption_faithfulness"), None, "%", HELD_OUT, n=n)
    chance = _percentile(judged, "null_removal_cost_p95")
    note = "Null: removing other circuits of that size, 95th percentile." if count else ""
    if chance is not None and not float(judged["removal_cost"]) > chance + CLEAR:
        note += " Removing almost any part breaks the behaviour, so this number does not single out the circuit."
    yield row("gap lost when it is removed", *_with_ends(judged, "removal_cost"), chance, "%", HELD_OUT, note, n=n)


def node_rows(nodes: xr.Dataset | None, best: Mapping[str, str], effects: xr.DataArray) -> Iterator[Finding]:
    """The share of the gap that the best head of each type restores alone: the causal side of its attention score.

    Effect and gap are both taken over the pairs that have the place; without a gap to restore there is no row.

    Args:
        nodes: Effects of heads on held-out pairs.
        best: Head type -> its best head.
        effects: Mean effects on other pairs, on which the place is chosen.
    """
    if nodes is None:
        return
    gap = (nodes["clean"] - nodes["corrupted"]).values
    for name, head in best.items():
        chosen, effect = head_entry(effects, head), head_entry(nodes["effect"], head)
        place = ""
        if "role" in effect.dims:
            place = str(chosen["role"].values[int(np.nan_to_num(chosen.values, nan=-np.inf).argmax())])
            effect = effect.sel(role=place)
        here = np.isfinite(effect.values)
        share = ratio_of_means(effect.values[here], gap[here])
        if not share.valid:
            continue
        title = f"gap restored by {head} alone" + (f" at {words(place)}" if place else "")
        note = f"The {words(name)} head; the place is chosen on other pairs. Its whole output there is clean."
        if not here.all():
            note += f" Over the {here.sum()} of {here.size} pairs that have this place."
        yield row(title, share.value, share.ends, None, "%", HELD_OUT, note, n=f"{here.sum()} pairs")


def probe_rows(results: Mapping[str, xr.Dataset]) -> Iterator[Finding]:
    """Each variable's probe after every layer beside its nulls, and the cost of erasing the variable there."""
    where = "last step, held-out sequences"
    for target, result in results.items():
        for layer in result["layer"].values:
            at = result.sel(layer=layer)
            null = float(np.nanmax([float(at["untrained"]), float(at["shuffled"]), float(result["majority"])]))
            note = "Null: the best of untrained, shuffled, constant."
            if left_out := result.attrs.get("positions_left_out"):
                note += f" {left_out} positions are left out: a fitted sequence begins alike."
            name = f"{words(target)} read after layer {int(layer)}"
            n = f"{result.attrs['positions_scored']} positions" if "positions_scored" in result.attrs else ""
            yield row(name, *_with_ends(at, "score"), null, "", where, note, n=n)
            cost = at["effect"].values
            name = f"cost of erasing {words(target)} after layer {int(layer)}"
            if result.attrs.get("erasure_reason") not in (None, "", "none"):
                yield row(name, "not testable", note=f"{result.attrs['erasure_reason']}.".replace("..", "."))
            elif np.isfinite(cost).any():
                excess = cost - at["effect_random"].values
                note = "Null: erasing as many random directions; the interval is of the difference, plus the null."
                random = float(np.nanmean(at["effect_random"].values))
                low, high = (end + random for end in t_interval(excess))
                n = f"{np.isfinite(cost).sum()} sequences"
                yield row(name, float(np.nanmean(cost)), (low, high), random, "nats", where, note, n=n)


def _percentile(data: xr.Dataset, name: str) -> float | None:
    """A percentile of a null; None where there is no null."""
    value = float(data[name])
    return None if np.isnan(value) else value


def _with_ends(data: xr.Dataset, name: str) -> tuple[float, tuple[float, float]]:
    return float(data[name]), (float(data[f"{name}_low"]), float(data[f"{name}_high"]))


def _stages(show: Progress, what: str, total: int) -> Callable[[str], None]:
    """A function that is called at the start of each stage: all earlier ones are done."""
    begun = 0

    def stage(_: str) -> None:
        nonlocal begun
        show(what, min(begun, total), total)
        begun += 1

    return stage
