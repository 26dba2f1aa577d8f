"""The k edges of largest effect; k is given, or the fewest that reach a share of the gap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from mechinterp.core import Circuit, ConfigError, Edge, Graph, rank_edges
from mechinterp.core.statistics import t_interval

Score = Callable[[Sequence[Circuit]], Tensor]
_BLOCK = 16


def top_k(
    graph: Graph, effects: Mapping[Edge, float], score: Score, k: int | None = None, share: float = 0.9
) -> tuple[Circuit, int]:
    """The edges of largest signed effect, pruned to whole paths from an input to the logits.

    Args:
        graph: The model's edges.
        effects: Edge -> effect, positive means that keeping it helps.
        score: Circuits -> metric `[circuit, batch]`, higher is better; used where k is not given.
        k: How many edges to take before pruning.
        share: Where k is None: the smallest k whose circuit reaches this share of the gap between the whole model and
            the empty circuit.

    Returns:
        The circuit, and k.

    Raises:
        ConfigError: If k is out of range, or the gap's interval contains zero, so that no share of it means anything.
    """
    ranked = rank_edges(effects)
    if k is not None:
        if not 0 <= k <= len(ranked):
            raise ConfigError(f"k={k}: the model has {len(ranked)} edges, so k is 0 to {len(ranked)}")
        return Circuit(ranked[:k], graph.inputs).pruned(), k
    whole, empty = score([Circuit(graph.edges, graph.inputs), Circuit([], graph.inputs)]).double()
    low, high = t_interval((whole - empty).numpy())
    if not (low > 0 or high < 0):
        raise ConfigError(
            f"the gap between the clean and the corrupted run is {low:.3g} to {high:.3g} and may be zero: "
            "there is no share of it to reach; give k, more examples, or a trained model"
        )
    wanted = share * float((whole - empty).mean())
    sign = 1.0 if wanted > 0 else -1.0
    for start in range(0, len(ranked) + 1, _BLOCK):
        counts = range(start, min(start + _BLOCK, len(ranked) + 1))
        circuits = [Circuit(ranked[:count], graph.inputs).pruned() for count in counts]
        gains = score(circuits).double().mean(1) - empty.mean()
        for count, circuit, gain in zip(counts, circuits, gains.tolist(), strict=True):
            if sign * gain >= sign * wanted:
                return circuit, count
    raise ConfigError(f"no number of edges reaches {share} of the gap, not even all of them: give a smaller share")
