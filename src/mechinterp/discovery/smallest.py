"""The smallest circuit there is, by trying all of them.

A circuit that is not made of whole paths from an input to the logits equals a smaller one that is (under resampling),
so only those are tried, by rising size. What a circuit recovers is not monotone in its edges: nothing can be bounded,
and the first size at which one suffices is the smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from mechinterp.core import OPTIONS, Circuit, ConfigError, Edge, Graph, Site, component, owners
from mechinterp.interventions import Judge

LIMIT = 100_000
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Smallest:
    """What a search through all circuits says.

    Args:
        circuit: The best of the smallest that suffice; None if none was met before the limit.
        excluded: No circuit of this size or smaller suffices.
        tried: Circuits that were run.
        complete: Whether the search ended by itself, so that `circuit` is the optimum.
    """

    circuit: Circuit | None
    excluded: int
    tried: int
    complete: bool


def smallest_circuit(
    judges: Mapping[str, Judge], *, share: float = OPTIONS["share"].default, limit: int = LIMIT
) -> Smallest:
    """The smallest circuit that recovers a share of the gap; of several, the one that recovers most.

    Args:
        judges: Corruption -> the judge of its pairs (`Judge.by_corruption`); the share holds under every corruption.
        share: Of the gap.
        limit: Circuits to run at most.

    Raises:
        ConfigError: If the ablation is not resampling, or a gap may be zero.
    """
    first = next(iter(judges.values()))
    if first.options.ablation != "resample":
        raise ConfigError(f"ablation='{first.options.ablation}': only under resampling do whole paths suffice")
    for corruption, judge in judges.items():
        judge.check_gap(corruption)
    tried = 0
    for size in range(1, len(first.graph.edges) + 1):
        best, winner = share, None
        circuits = whole_circuits(first.graph, size)
        while block := list(islice(circuits, min(_BLOCK, limit - tried))):
            tried += len(block)
            recovered = np.min([judge.recovered_shares(block) for judge in judges.values()], axis=0)
            first.forget()
            place = int(recovered.argmax())
            if recovered[place] >= best:
                best, winner = float(recovered[place]), block[place]
        if tried >= limit and next(circuits, None) is not None:
            return Smallest(winner, size - 1, tried, False)
        if winner is not None:
            return Smallest(winner, size - 1, tried, True)
    return Smallest(None, len(first.graph.edges), tried, True)


def whole_circuits(graph: Graph, size: int) -> Iterator[Circuit]:
    """Every circuit of a size whose edges all lie on paths from an input to the logits."""
    for edges in _completed(graph, list(reversed(graph.readers)), frozenset(), frozenset(), size):
        yield Circuit(edges, graph.inputs)


def _completed(
    graph: Graph, readers: list[Site], chosen: frozenset[Edge], unfed: frozenset[Site], left: int
) -> Iterator[frozenset[Edge]]:
    """All ways to add so many edges into some readers, from the logits backwards, so that every used part is fed.

    Args:
        graph: The model's edges.
        readers: Those still to be decided, latest first.
        chosen: Edges so far.
        unfed: Components that some chosen edge reads and nothing is read by so far.
        left: How many edges to add.
    """
    if not readers:
        if not left and not unfed:
            yield chosen
        return
    reader, *rest = readers
    parts, used = set(owners(reader)), {component(edge.source) for edge in chosen}
    ends = reader.kind == "logits"
    live = ends or not used.isdisjoint(parts)
    # A part whose last reader this is must be fed by it.
    lost = {part for part in unfed & parts if not any(part in owners(other) for other in rest)}
    seen = graph.incoming(reader)
    for count in range(1 if ends or lost else 0, (min(left, len(seen)) if live else 0) + 1):
        for sources in combinations(seen, count):
            new = {component(source) for source in sources if source.layer is not None} - used
            hungry = (unfed - parts if count else unfed) | new
            # Heads that share a key are fed by one edge.
            if (left - count) * graph.shared >= len(hungry):
                edges = chosen | {Edge(source, reader) for source in sources}
                yield from _completed(graph, rest, edges, hungry, left - count)
