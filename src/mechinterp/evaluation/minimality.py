"""Is every edge needed? For each, a state of the circuit in which its removal shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import xarray as xr
from torch import nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, Site, component, example_names, owners, takes
from mechinterp.core.statistics import rounding, t_interval
from mechinterp.evaluation.redundancy import parts_of, without
from mechinterp.interventions import Judge


@takes("metric", "ablation")
def minimality(model: HookedModel | nn.Module, pair: Pair, circuit: Circuit, *, options: Options) -> xr.Dataset:
    """For each edge e the change from removing it out of C\\K, for the subset K of C that shows it most.

    Tried for K: nothing; all edges of one component; each other edge from an input into the component that e enters;
    all edges of the other heads in the layer of e's reader, of its source, or both; and where nothing of this shows e,
    all edges of every two components. So a stand-in shows wherever it lies, also in a later layer. Of subsets that show
    e equally the smallest is taken. K is chosen on one half of the examples by the largest absolute change, and the
    change is measured on the other, so that choosing does not inflate it.

    Args:
        model: The model.
        pair: Clean and corrupted examples; K is chosen on examples 0, 2, 4, ..., and measured on those of 1, 3, 5, ...
            that have no copy among the former.
        circuit: The circuit C.
        options: See `Options`; the input convention is the circuit's.

    Returns:
        minimality, minimality_low, minimality_high (edge), in the metric's unit, positive where the edge helps;
        minimality_removed (edge): K, its edges joined by "; ", or "none". NaN where fewer than two examples are left to
        measure on.

    Source: Wang et al. 2022, section 4. Differs: their K were found by hand.
    """
    return judged_minimality(Judge(model, pair, options.change(inputs=circuit.inputs)), circuit)


def judged_minimality(judge: Judge, circuit: Circuit) -> xr.Dataset:
    """`minimality` by a judge, which runs no circuit twice."""
    edges = list(circuit)
    even, odd = _halves(judge.pair)
    best = _most_telling(circuit, edges, judge.part(even))
    values = [np.full(2, np.nan) for _ in edges]
    if len(odd) >= 2:
        changes = _changes(circuit, best.items(), judge.part(odd))
        values = [changes[edge, best[edge]] for edge in edges]
    bounds = np.array([t_interval(value) for value in values]).reshape(-1, 2)
    removed = ["; ".join(str(item) for item in sorted(best[edge])) or "none" for edge in edges]
    return xr.Dataset(
        {
            "minimality": ("edge", np.array([value.mean() for value in values])),
            "minimality_low": ("edge", bounds[:, 0]),
            "minimality_high": ("edge", bounds[:, 1]),
            "minimality_removed": ("edge", np.array(removed, dtype=str)),
        },
        coords={"edge": [str(edge) for edge in edges]},
    )


def _halves(pair: Pair) -> tuple[slice, np.ndarray]:
    """Examples to choose on (even), and numbers of those to measure on (odd ones that have no copy among the even)."""
    names = example_names(pair)
    known = set(names[::2])
    return slice(0, None, 2), np.array([at for at in range(1, len(names), 2) if names[at] not in known], dtype=int)


def _most_telling(circuit: Circuit, edges: Sequence[Edge], judge: Judge) -> dict[Edge, frozenset[Edge]]:
    """Edge -> the K that shows it most."""
    parts = [_edges_of(circuit, [part]) for part in parts_of(circuit)]
    sets = {
        edge: _apart(edge, [frozenset(), *parts, *_from_inputs(edge, circuit), *_rivals(edge, circuit)])
        for edge in edges
    }
    shows = _changes(circuit, [(edge, k) for edge in edges for k in sets[edge]], judge)
    tie = rounding(*shows.values()) if shows else 0.0
    hidden = [edge for edge in edges if all(abs(shows[edge, k].mean()) <= tie for k in sets[edge])]
    for edge in hidden:
        sets[edge] = _apart(edge, [*sets[edge], *(one | other for one, other in combinations(parts, 2))])
    shows |= _changes(circuit, [(edge, k) for edge in hidden for k in sets[edge] if (edge, k) not in shows], judge)
    return {edge: _largest(edge, sets[edge], shows) for edge in edges}


def _largest(
    edge: Edge, sets: Sequence[frozenset[Edge]], shows: Mapping[tuple[Edge, frozenset[Edge]], np.ndarray]
) -> frozenset[Edge]:
    """The smallest of the sets that show the edge most, up to rounding."""
    sizes = {k: abs(float(shows[edge, k].mean())) for k in sets}
    enough = max(sizes.values()) - rounding(*(shows[edge, k] for k in sets))
    return min((k for k in sets if sizes[k] >= enough), key=len)


def _apart(edge: Edge, sets: Iterable[frozenset[Edge]]) -> list[frozenset[Edge]]:
    """The sets without the edge in them, each once."""
    return [k for k in dict.fromkeys(sets) if edge not in k]


def _from_inputs(edge: Edge, circuit: Circuit) -> list[frozenset[Edge]]:
    """Each edge from an input into the component that an edge enters; all others are covered by their sources."""
    entered = set(owners(edge.reader))
    into = [other for other in circuit if not entered.isdisjoint(owners(other.reader))]
    return [frozenset([other]) for other in into if other.source.layer is None]


def _rivals(edge: Edge, circuit: Circuit) -> list[frozenset[Edge]]:
    """Edges of the other heads in the layer of each end, and of both."""
    ends = [component(edge.source), *owners(edge.reader)]
    sets = [_edges_of(circuit, [part for part in parts_of(circuit) if _is_rival(part, end)]) - {edge} for end in ends]
    return [*sets, frozenset[Edge]().union(*sets)]


def _is_rival(part: Site, end: Site) -> bool:
    return part.layer == end.layer and part != end and part.head is not None and end.head is not None


def _edges_of(circuit: Circuit, parts: Iterable[Site]) -> frozenset[Edge]:
    return circuit.edges - without(circuit, parts).edges


def _changes(
    circuit: Circuit, wanted: Iterable[tuple[Edge, frozenset[Edge]]], judge: Judge
) -> dict[tuple[Edge, frozenset[Edge]], np.ndarray]:
    """m(C\\K) - m(C\\(K + e)) per example, for each (e, K)."""
    keys = list(wanted)
    with_edge = [Circuit(circuit.edges - k, circuit.inputs) for _, k in keys]
    without_edge = [Circuit(circuit.edges - k - {edge}, circuit.inputs) for edge, k in keys]
    values = judge.scores([*with_edge, *without_edge])
    return {key: values[row] - values[row + len(keys)] for row, key in enumerate(keys)}
