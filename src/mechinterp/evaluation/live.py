"""Which edges can matter at all on this pair, and of the others, which ones this exam cannot see.

An effect is told from rounding by moving the weights: both are computed again with every weight changed by a few units
in its last place. An effect that is no larger than what that changes in it is not one of the model, whose weights are
known to that precision only. Sharp attention and steep lookup tables enlarge rounding, so no fixed share of the gap or
of the largest effect is a safe limit for all models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Shaped
from torch import nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, Site, component, generator, owners, takes
from mechinterp.core.statistics import rounding
from mechinterp.interventions import Judge, as_transformer
from mechinterp.models import Transformer
from mechinterp.patching import patch_edges
from mechinterp.patching.visible import visible_edges

EDGE_STATES = ("live", "idle", "invisible")
UNITS = 8.0
"""Standard deviation of the change of a weight, in units of its last place."""
MOVES = 2
FACTOR = 5.0
"""How much larger than what a change of the weights makes of it an effect must be."""


@takes("metric", "ablation", "inputs")
def edge_states(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    live: Iterable[str | Edge] | None = None,
    options: Options,
) -> xr.DataArray:
    """What an exam of single edges can say of each edge: whether it is live, idle or invisible.

    - `live`: patching it alone changes the metric of some example, noising the clean run or, under resampling,
      denoising the corrupted one.
    - `idle`: its source carries something else when it is ablated, and that changes nothing.
    - `invisible`: its source carries the same when it is ablated, wherever the reader reads it, as positions do under
      resampling, so its effect is zero by construction, however much the model needs it. Another ablation may see it.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        live: The live edges, if they are known; by default exact effects find them.
        options: See `Options`.

    Returns:
        One of `EDGE_STATES` per `edge`, all edges of the model in topological order.
    """
    chosen = options.for_model(model)
    graph = as_transformer(model, "exact edge effects need").config.graph(chosen.inputs)
    own = _with_effect(model, pair, chosen) if live is None else {graph.check(edge) for edge in live}
    visible = visible_edges(model, pair, options=chosen)
    states = ["live" if edge in own else "idle" if edge in visible else "invisible" for edge in graph.edges]
    names = [str(edge) for edge in graph.edges]
    return xr.DataArray(np.array(states, dtype=str), dims="edge", coords={"edge": names}, name="edge_state")


@takes("metric", "ablation", "inputs")
def live_edges(
    model: HookedModel | nn.Module, pair: Pair, *, states: xr.DataArray | None = None, options: Options
) -> tuple[Edge, ...]:
    """Edges whose exact effect is not identically zero, on a path of such edges from an input to the logits.

    Two saturated copies both live: denoising shows what noising hides. Where an edge into a component has an effect and
    no edge out of it has one of its own, as with a head that writes nothing until another is gone, the edges that carry
    this effect onward live too. An edge that matters only when others are half-way is missed.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        states: What `edge_states` gives for them, if it is known.
        options: See `Options`.

    Returns:
        Live edges in topological order.
    """
    chosen = options.for_model(model)
    own = _with_effect(model, pair, chosen) if states is None else live_among(states)
    return tuple(Circuit(own | _carriers(model, pair, own, chosen), chosen.inputs).pruned())


def live_among(states: xr.DataArray) -> set[Edge]:
    """Edges with an effect of their own."""
    return {Edge.parse(str(edge)) for edge in states["edge"].values[states.values == "live"]}


def states_of(circuit: Circuit, states: xr.DataArray) -> Shaped[np.ndarray, " edge"]:
    """The states of a circuit's edges, in the circuit's order."""
    return states.sel(edge=[str(edge) for edge in circuit]).values


def _with_effect(model: HookedModel | nn.Module, pair: Pair, options: Options) -> set[Edge]:
    """Edges whose effect on some example, in either direction, is beyond rounding."""
    model = as_transformer(model, "exact edge effects need")
    moved = [_moved(model, draw) for draw in range(MOVES)]
    live: set[Edge] = set()
    for direction in ("noise", "denoise") if options.ablation == "resample" else ("noise",):
        way = options.change(direction=direction)
        result = patch_edges(model, pair, options=way)
        effect = _by_example(result)
        units = np.max([np.abs(_by_example(patch_edges(one, pair, options=way)) - effect) for one in moved], (0, 2))
        beyond = np.abs(effect).max(1) > np.maximum(FACTOR * units, _last_place(result))
        live |= {Edge.parse(str(edge)) for edge in result["edge"].values[beyond]}
    return live


def _by_example(result: xr.Dataset) -> Float[np.ndarray, "edge example"]:
    return result["effect"].transpose("edge", "example").values


def _last_place(result: xr.Dataset) -> float:
    """A hundred units in the last place of the largest number in play."""
    largest = max(float(np.abs(result[name]).max()) for name in ("effect", "clean", "corrupted"))
    return 100 * float(np.finfo(result["effect"].dtype).eps) * largest


@torch.no_grad()
def _moved(model: Transformer, draw: int) -> Transformer:
    """A copy of the model, each weight changed by some units in its last place."""
    moved = copy.deepcopy(model)
    for name, weight in moved.named_parameters():
        noise = torch.randn(weight.shape, generator=generator(draw, "rounding", name), dtype=torch.float64)
        weight.mul_(1 + (UNITS * torch.finfo(weight.dtype).eps * noise).to(weight.device, weight.dtype))
    return moved


def _carriers(model: HookedModel | nn.Module, pair: Pair, own: set[Edge], options: Options) -> set[Edge]:
    """Edges out of components whose effects reach the logits by no edge with an effect of its own.

    Such an edge g shows beside an edge f into the component: with f absent, removing g changes the metric.
    """
    ways = [pair, Pair(pair.corrupted, pair.clean)] if options.ablation == "resample" else [pair]
    judges = [Judge(model, way, options) for way in ways]
    graph, whole = judges[0].graph, judges[0].whole
    live, lost = set(own), set[Site]()
    while True:
        stuck = _stuck(live) - lost
        if not stuck:
            return live - own
        part = max(stuck)  # the last one first: what lies before it may go through it
        lost.add(part)
        inward = [edge for edge in sorted(live) if part in owners(edge.reader)]
        outward = [edge for edge in graph.edges if component(edge.source) == part]
        for judge in judges:
            with_f = judge.scores([whole - Circuit([f], graph.inputs) for f in inward])
            both = judge.scores([whole - Circuit([f, g], graph.inputs) for g in outward for f in inward])
            change = np.abs(both.reshape(len(outward), *with_f.shape) - with_f).max((1, 2))
            live |= {edge for edge, size in zip(outward, change, strict=True) if size > rounding(both, with_f)}


def _stuck(live: Iterable[Edge]) -> set[Site]:
    """Components that a live edge enters and no live edge leaves."""
    leaving = {component(edge.source) for edge in live}
    return {owner for edge in live if edge.reader.kind != "logits" for owner in owners(edge.reader)} - leaving
