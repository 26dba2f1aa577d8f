"""Random circuits: what a circuit of this size would give if its edges meant nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mechinterp.core import LOGITS, Circuit, ConfigError, Edge, Graph, Site, component, derive_seed, owners

_TRIES = 20
_STARTS = 20
_LISTED = 5000
_PATHS = 60
"""Circuits, and paths that they are made of, that are listed before draws must do."""


def random_circuits(
    graph: Graph, size: int, live: Iterable[str | Edge] | None = None, n: int = 100, seed: int = 0
) -> list[Circuit]:
    """Circuits made of whole random paths from an input to the logits, of a given number of edges.

    A path is a walk back from the logits: at each component one of its live incoming edges, all equally likely. Paths
    are added until the size is reached; one that would overshoot is drawn again, then a single edge is sought that
    closes a path between components already there, then the circuit starts again from no edge.

    Args:
        graph: The model's edges.
        size: Edges of each circuit.
        live: Edges that may take part (`live_edges`); by default all of the graph. Edges off every live path from an
            input to the logits never do.
        n: How many circuits.
        seed: Of the draws; circuit i is the same whatever `n` is.

    Returns:
        `n` circuits. Each has exactly `size` edges where whole paths can make up that number; where they cannot (one
        edge, and no direct wire from input to logits is live), it has the fewest more that the draws found, which
        favours the random side.

    Raises:
        ConfigError: If fewer than `size` edges can take part.

    Source: Shi et al. 2024, section 3. Differs: sizes match (theirs may overshoot by a path), and dead edges are out.

    >>> graph = Graph(2, 2, mlp=False)
    >>> [len(circuit.pruned()) for circuit in random_circuits(graph, size=5, n=3)]
    [5, 5, 5]
    """
    pool = Circuit(graph.edges if live is None else live, graph.inputs).pruned()
    if size > len(pool):
        raise ConfigError(f"circuits of {size} edges were asked for, and {len(pool)} live edges lie on a path")
    incoming = _incoming(pool.edges)
    circuits = []
    for number in range(n):
        rng = np.random.default_rng(derive_seed(seed, "random circuit", number))
        circuits.append(Circuit(_draw(size, incoming, rng), graph.inputs))
    return circuits


def rival_circuits(
    circuit: Circuit, graph: Graph, live: Iterable[str | Edge], n: int = 100, seed: int = 0
) -> tuple[list[Circuit], bool]:
    """Circuits of a circuit's size, made of whole live paths, none of which contains it.

    Args:
        circuit: Of live edges, made of whole paths.
        graph: The model's edges.
        live: Edges that may take part (`live_edges`).
        n: How many.
        seed: Of the draws.

    Returns:
        `n` random circuits (fewer, where draws contain the circuit), or all there are where these are no more than `n`;
        and whether they are all there are.
    """
    pool = Circuit(live, graph.inputs).pruned()
    every = _all_of_size(len(circuit), pool)
    if every is not None:
        others = [one for one in every if one.edges != circuit.edges]
        if len(others) <= n:
            return others, True
    drawn = random_circuits(graph, len(circuit), pool.edges, n, seed)
    return [one for one in drawn if not circuit.edges <= one.edges], False


def inflate(circuit: Circuit, graph: Graph, live: Iterable[str | Edge] | None = None, seed: int = 0) -> Circuit | None:
    """The circuit with one more random path, adding at least one edge; None where every live edge is in it already."""
    pool = Circuit(graph.edges if live is None else live, graph.inputs).pruned()
    if pool.edges <= circuit.edges:
        return None
    incoming = _incoming(pool.edges)
    rng = np.random.default_rng(derive_seed(seed, "inflated circuit"))
    return Circuit(circuit.edges | _fresh(circuit.edges, incoming, rng), circuit.inputs)


def _all_of_size(size: int, pool: Circuit) -> list[Circuit] | None:
    """Every circuit of whole paths with that many edges; None where there are too many to list."""
    paths = _all_paths(_incoming(pool.edges))
    unions, grown = {frozenset[Edge]()}, [frozenset[Edge]()]
    while grown and paths is not None and len(unions) <= _LISTED:
        larger = {one | path for one in grown for path in paths}
        grown = [one for one in larger if len(one) <= size and one not in unions]
        unions.update(grown)
    if paths is None or len(unions) > _LISTED:
        return None
    return [Circuit(one, pool.inputs) for one in sorted(unions, key=sorted) if len(one) == size]


def _all_paths(incoming: Mapping[Site, Sequence[Edge]]) -> list[frozenset[Edge]] | None:
    """Every path from an input to the logits; None where there are too many to list."""
    paths: list[tuple[Site, frozenset[Edge]]] = [(LOGITS, frozenset())]
    whole: list[frozenset[Edge]] = []
    while paths and len(whole) <= _PATHS:
        here, path = paths.pop()
        if here in incoming:
            paths += [(component(edge.source), path | {edge}) for edge in incoming[here]]
        elif path:
            whole.append(path)
    return None if paths else whole


def _draw(size: int, incoming: Mapping[Site, Sequence[Edge]], rng: np.random.Generator) -> frozenset[Edge]:
    """Whole paths of `size` edges, or of the fewest more that the draws found."""
    best: frozenset[Edge] = frozenset()
    for _ in range(_STARTS):
        chosen = _grow(size, incoming, rng)
        if len(chosen) == size:
            return chosen
        best = min(best or chosen, chosen, key=len)
    return best


def _grow(size: int, incoming: Mapping[Site, Sequence[Edge]], rng: np.random.Generator) -> frozenset[Edge]:
    """Add whole paths until there are `size` edges, or more where no path fits."""
    chosen: frozenset[Edge] = frozenset()
    while len(chosen) < size:
        overshoot: frozenset[Edge] = frozenset()
        for _ in range(_TRIES):
            new = _walk(incoming, rng) - chosen
            if 0 < len(new) <= size - len(chosen):
                break
            overshoot = min(new or overshoot, overshoot or new, key=len)
        else:
            closing = _closing(chosen, incoming)
            if closing:
                new = frozenset([closing[int(rng.integers(len(closing)))]])
            else:
                new = overshoot or _fresh(chosen, incoming, rng)
        chosen |= new
    return chosen


def _walk(incoming: Mapping[Site, Sequence[Edge]], rng: np.random.Generator) -> frozenset[Edge]:
    """One random path; every component of a pruned pool is fed, so the walk always reaches an input."""
    path, here = [], LOGITS
    while here in incoming:
        edge = incoming[here][int(rng.integers(len(incoming[here])))]
        path.append(edge)
        here = component(edge.source)
    return frozenset(path)


def _fresh(
    chosen: frozenset[Edge], incoming: Mapping[Site, Sequence[Edge]], rng: np.random.Generator
) -> frozenset[Edge]:
    new: frozenset[Edge] = frozenset()
    while not new:
        new = _walk(incoming, rng) - chosen
    return new


def _closing(chosen: frozenset[Edge], incoming: Mapping[Site, Sequence[Edge]]) -> list[Edge]:
    """Edges that alone complete a path: from an input or a fed component to one that reaches the logits."""
    fed = {owner for edge in chosen for owner in owners(edge.reader)}
    used = {component(edge.source) for edge in chosen} | {LOGITS}
    pool = {edge for edges in incoming.values() for edge in edges if edge not in chosen}
    return sorted(
        edge
        for edge in pool
        if not used.isdisjoint(owners(edge.reader)) and (edge.source.layer is None or component(edge.source) in fed)
    )


def _incoming(edges: Iterable[Edge]) -> dict[Site, list[Edge]]:
    by_reader: dict[Site, list[Edge]] = {}
    for edge in sorted(edges):
        for owner in owners(edge.reader):
            by_reader.setdefault(owner, []).append(edge)
    return by_reader
