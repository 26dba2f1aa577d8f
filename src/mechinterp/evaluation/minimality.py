"""Is every edge needed? For each, a state of the circuit in which its removal shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr
from torch import nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, Site, component, owners, takes
from mechinterp.core.statistics import t_interval
from mechinterp.interventions import Judge


@takes("metric", "ablation")
def minimality(model: HookedModel | nn.Module, pair: Pair, circuit: Circuit, *, options: Options) -> xr.Dataset:
    """For each edge e the change from removing it out of C\\K, for the subset K of C that shows it most.

    Tried for K: nothing; all edges that touch another head (or the MLP) in the layer of e's reader; the same for its
    source; both. Removing the rivals is what shows one of several copies. K is chosen on one half of the examples by
    the largest absolute change, and the change is measured on the other, so that choosing does not inflate it.

    Args:
        model: The model.
        pair: Clean and corrupted examples; K is chosen on examples 0, 2, 4, ..., and measured on 1, 3, 5, ...
        circuit: The circuit C.
        options: See `Options`; the input convention is the circuit's.

    Returns:
        minimality, minimality_low, minimality_high (edge), in the metric's unit, positive where the edge helps;
        minimality_removed (edge): K, its edges joined by "; ", or "none".

    Source: Wang et al. 2022, section 4. Differs: their K were found by hand; ours are these four.
    """
    return judged_minimality(Judge(model, pair, options.change(inputs=circuit.inputs)), circuit)


def judged_minimality(judge: Judge, circuit: Circuit) -> xr.Dataset:
    """`minimality` by a judge, which runs no circuit twice."""
    edges = list(circuit)
    first, second = judge.part(slice(0, None, 2)), judge.part(slice(1, None, 2))
    without = [Circuit(circuit.edges - {edge}, circuit.inputs) for edge in edges]
    plain = judge.scores([circuit])[0] - judge.scores(without)
    tried = {edge: _candidates(edge, circuit) for edge in edges}
    shows = _changes(circuit, [(edge, k) for edge in edges for k in tried[edge]], first)
    best: dict[Edge, frozenset[Edge]] = {}
    for row, edge in enumerate(edges):
        sizes = {frozenset(): abs(plain[row, ::2].mean())}
        sizes |= {k: abs(shows[edge, k].mean()) for k in tried[edge]}
        best[edge] = max(sizes, key=lambda k: sizes[k])
    held_out = _changes(circuit, [(edge, k) for edge, k in best.items() if k], second)
    values = [held_out[edge, best[edge]] if best[edge] else plain[row, 1::2] for row, edge in enumerate(edges)]
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


def _candidates(edge: Edge, circuit: Circuit) -> list[frozenset[Edge]]:
    """Non-empty subsets K of C without e, each once."""
    ends = [end for end in (component(edge.source), *owners(edge.reader)) if end.layer is not None]
    rivals = [frozenset(other for other in circuit.edges if _touches_rival(other, end)) - {edge} for end in ends]
    both = frozenset[Edge]().union(*rivals)
    return [k for k in dict.fromkeys([*rivals, both]) if k]


def _touches_rival(other: Edge, end: Site) -> bool:
    touched = (component(other.source), *owners(other.reader))
    return any(site.layer == end.layer and site != end for site in touched)


def _changes(
    circuit: Circuit, wanted: Iterable[tuple[Edge, frozenset[Edge]]], judge: Judge
) -> dict[tuple[Edge, frozenset[Edge]], np.ndarray]:
    """m(C\\K) - m(C\\(K + e)) per example, for each (e, K)."""
    keys = list(wanted)
    with_edge = [Circuit(circuit.edges - k, circuit.inputs) for _, k in keys]
    without = [Circuit(circuit.edges - k - {edge}, circuit.inputs) for edge, k in keys]
    values = judge.scores([*with_edge, *without])
    return {key: values[row] - values[row + len(keys)] for row, key in enumerate(keys)}
