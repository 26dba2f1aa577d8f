"""The k edges of largest effect; k is given, or the fewest that reach a share of the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mechinterp.core import OPTIONS, Circuit, ConfigError, Edge, rank_edges
from mechinterp.interventions import Judge

_BLOCK = 16


def top_k(
    judges: Mapping[str, Judge],
    effects: Mapping[Edge, float],
    *,
    k: int | None = None,
    share: float = OPTIONS["share"].default,
) -> tuple[Circuit, int]:
    """The edges of largest signed effect, pruned to whole paths from an input to the logits.

    Args:
        judges: Corruption -> the judge of its pairs (`Judge.by_corruption`).
        effects: Edge -> effect, positive means that keeping it helps.
        k: How many edges to take before pruning.
        share: Where k is None: the smallest k whose circuit reaches this share of the gap under every corruption.

    Returns:
        The circuit, and k.

    Raises:
        ConfigError: If k is out of range, or a gap may be zero, so that no share of it means anything.
    """
    ranked = rank_edges(effects)
    if k is None:
        k = max(_fewest(judge, corruption, ranked, share) for corruption, judge in judges.items())
    elif not 0 <= k <= len(ranked):
        raise ConfigError(f"k={k}: the model has {len(ranked)} edges, so k is 0 to {len(ranked)}")
    graph = next(iter(judges.values())).graph
    return Circuit(ranked[:k], graph.inputs).pruned(), k


def _fewest(judge: Judge, corruption: str, ranked: Sequence[Edge], share: float) -> int:
    """The smallest k that reaches a share of one judge's gap."""
    judge.check_gap(corruption)
    where = f" under corruption '{corruption}'" if corruption else ""
    for start in range(0, len(ranked) + 1, _BLOCK):
        sizes = range(start, min(start + _BLOCK, len(ranked) + 1))
        circuits = [Circuit(ranked[:size], judge.graph.inputs).pruned() for size in sizes]
        for size, recovered in zip(sizes, judge.recovered_shares(circuits), strict=True):
            if recovered >= share:
                return size
    raise ConfigError(
        f"no number of edges reaches {share} of the gap{where}, not even all of them: give a smaller share"
    )
