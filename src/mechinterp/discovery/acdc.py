"""ACDC: try every edge once, from the logits backwards, and remove it if the metric falls by less than a threshold.

1. Begin with all edges. Readers come in reverse topological order, each reader's edges in a recorded order.
2. Corrupt one edge for good if the metric (by default minus KL(whole model || circuit)) falls by less than a threshold.
3. A component left without outgoing edges is dropped with all edges into it.

Source: Conmy et al. 2023, https://arxiv.org/abs/2304.14997, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mechinterp.core import Circuit, ConfigError, Edge, Graph, Site, component, derive_seed, owners, suggest
from mechinterp.interventions import Judge

ORDERS = ("backward", "forward", "shuffle")
_LONGEST = 32
HALVINGS = 16
"""How often the gap is halved in search of a threshold."""


def acdc(
    judge: Judge,
    threshold: float,
    *,
    order: str | Iterable[str | Edge] = "backward",
    seed: int = 0,
) -> Circuit:
    """The edges that ACDC keeps.

    Args:
        judge: Scores circuits.
        threshold: tau, in the metric's unit: remove an edge if the mean metric falls by less than this.
        order: See `edge_order`.
        seed: Of `order="shuffle"`.

    Returns:
        The circuit. Under zero or mean ablation it may hold edges out of components that nothing feeds.

    Raises:
        ConfigError: If the threshold is not positive or the order is unknown or incomplete.
    """
    if not threshold > 0:
        raise ConfigError(f"threshold={threshold}: ACDC needs a positive one, in the metric's unit (0.02 nats, say)")
    graph = judge.graph
    queue = edge_order(graph, order, seed)
    left = set(graph.edges)
    now = float(judge.scores([judge.whole]).mean())
    done, block = 0, 4
    while done < len(queue):
        steps = _speculate(queue[done:], left, block)
        trials = [Circuit(after, graph.inputs) for _, after in steps if after is not None]
        values = iter(judge.scores(trials).mean(1).tolist())
        for edge, after in steps:
            done += 1
            value = now if after is None else next(values)
            if not now - value < threshold:
                # All later trials lacked this edge: they are void, and the loop goes on behind it.
                block = max(block // 2, 1)
                break
            left.discard(edge)
            now = value
        else:
            block = min(2 * block, _LONGEST)
    return Circuit(left, graph.inputs)


def fitting_threshold(
    judge: Judge, search: Callable[[float], Circuit], k: int | None, share: float
) -> tuple[float, Circuit]:
    """The threshold for a number of edges or a share of the gap, with its circuit.

    Args:
        judge: Scores circuits.
        search: From a threshold to a circuit.
        k: How many edges the circuit may have: the smallest threshold with no more of them.
        share: Where k is None: the largest threshold whose circuit recovers this under every corruption.

    Raises:
        ConfigError: If the gap may be zero, or no threshold fits.
    """
    judges = judge.by_corruption()
    for corruption, one in judges.items():
        one.check_gap(corruption)
    fitting: tuple[float, Circuit] | None = None
    for halvings in range(1, HALVINGS + 1):
        threshold = judge.gap.unit / 2**halvings
        circuit = search(threshold)
        if k is None and min(float(one.recovered_shares([circuit])[0]) for one in judges.values()) >= share:
            return threshold, circuit
        if k is not None and len(circuit) > k:
            break
        fitting = threshold, circuit
    if k is None or fitting is None:
        wanted = f"{share} of the gap" if k is None else f"at most {k} edges"
        raise ConfigError(f"no threshold of ACDC leads to {wanted}")
    return fitting


def edge_order(graph: Graph, order: str | Iterable[str | Edge] = "backward", seed: int = 0) -> tuple[Edge, ...]:
    """The order in which ACDC tries the edges; its result depends on it.

    Args:
        graph: The model's edges.
        order: Within each reader `backward` (latest source first), `forward` or `shuffle`; readers always come from
            the logits backwards. Or all edges in an order of your own.
        seed: Of `shuffle`.

    Raises:
        ConfigError: If the order is unknown, or a list that is not every edge once.
    """
    if not isinstance(order, str):
        listed = tuple(graph.check(edge) for edge in order)
        if sorted(listed) != sorted(graph.edges):
            raise ConfigError(f"an order lists each of the {len(graph.edges)} edges once; {len(listed)} were given")
        return listed
    if order not in ORDERS:
        raise ConfigError(f"order='{order}' is unknown.{suggest(order, ORDERS)}")
    rng = np.random.default_rng(derive_seed(seed, "acdc order"))
    queue: list[Edge] = []
    for reader in reversed(graph.readers):
        sources = list(graph.incoming(reader))
        if order == "backward":
            sources.reverse()
        elif order == "shuffle":
            sources = [sources[i] for i in rng.permutation(len(sources))]
        queue += [Edge(source, reader) for source in sources]
    return tuple(queue)


def _speculate(queue: Sequence[Edge], edges: set[Edge], block: int) -> list[tuple[Edge, frozenset[Edge] | None]]:
    """The next edges, each with the circuit to score if it and all before it go; None where it needs no trial.

    Most edges are removed, so a batch scores a series of removals as if each succeeds. Its results count up to the
    first edge that must stay, and so the decisions are those of one trial at a time.
    """
    left = set(edges)
    steps: list[tuple[Edge, frozenset[Edge] | None]] = []
    trials = 0
    for edge in queue:
        if trials == block:
            break
        writing = {component(other.source) for other in left}
        heard = edge.reader == Site("logits") or not writing.isdisjoint(owners(edge.reader))
        left.discard(edge)
        steps.append((edge, frozenset(left) if heard else None))
        trials += heard
    return steps
