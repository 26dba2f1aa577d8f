"""Greedy removal: of all edges, remove the one whose loss is least; look again; go on.

Every edge is tried at every step, exactly: the neighbours of a circuit cost about a quarter of as many circuits
(`score_neighbours`). One-sided, a circuit's loss is what it falls short of the gap, 1 - f(C), and a search stops before
f(C) falls below the wanted share. An edge that works against the answer then goes first, since its loss is negative.
Two-sided, the loss is |1 - f(C)| + |1 - r(C)|, where r(C) is the share of the gap that is lost when C is removed from
the model: what works against the answer stays, because without it the circuit does better than the model, and so does
a backup, because the model without C would fall back on it.

Where losses are equal, the edge goes whose own effects in the whole model are least, noised and denoised: denoising
sees a backup, which noising does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mechinterp.core import OPTIONS, Circuit, ConfigError, Edge
from mechinterp.core.edge_scores import score_every_edge
from mechinterp.interventions import Judge
from mechinterp.patching import patch_edges

TIE = 1e-9
"""Losses nearer than this, as shares of the gap, are equal."""


@dataclass(frozen=True, eq=False)
class Removal:
    """A greedy search and its history.

    Args:
        circuit: What is left.
        removed: The edges that went, in order.
        losses: What each of them cost: the loss without it and all before it, the larger side of it.
        ties: At how many steps another edge would have cost the same.
    """

    circuit: Circuit
    removed: tuple[Edge, ...]
    losses: tuple[float, ...]
    ties: int


def greedy(
    judges: Mapping[str, Judge],
    *,
    k: int | None = None,
    share: float = OPTIONS["share"].default,
    two_sided: bool = False,
    swaps: bool = False,
) -> Removal:
    """Remove edges one by one, the least needed first.

    Args:
        judges: Corruption -> the judge of its pairs (`Judge.by_corruption`); a loss is the largest over them.
        k: How many edges may be left; by default as few as `share` allows.
        share: Of the gap that the circuit is to recover under every corruption and, two-sided, that is to be lost
            without it.
        two_sided: Whether the model without the circuit counts too.
        swaps: Whether, where no edge can go any more, an edge may be exchanged for another that is better, so that
            removal can go on.

    Raises:
        ConfigError: If k is out of range, or a gap may be zero where a share of it is wanted.
    """
    first = next(iter(judges.values()))
    graph = first.graph
    if k is not None and not 0 <= k <= len(graph.edges):
        raise ConfigError(f"k={k}: the model has {len(graph.edges)} edges, so k is 0 to {len(graph.edges)}")
    for corruption, judge in judges.items() if k is None else ():
        judge.check_gap(corruption)
    search = _Search(judges, two_sided, 1 - share if k is None else np.inf, k or 0, _own_effects(judges))
    history = search.remove(Removal(first.whole, (), (), 0))
    while swaps:
        other = search.swapped(history.circuit)
        if other is None:
            break
        history = search.remove(replace(history, circuit=other))
    # What a swap brought back has not gone.
    costs = dict(zip(history.removed, history.losses, strict=True))
    gone = {edge: cost for edge, cost in costs.items() if edge not in history.circuit.edges}
    return replace(history, removed=tuple(gone), losses=tuple(gone.values()))


@dataclass(frozen=True, eq=False)
class _Search:
    """The losses that decide.

    Args:
        judges: As for `greedy`.
        two_sided: As for `greedy`.
        allowed: The largest loss of a side that a circuit may have.
        smallest: The number of edges at which removal ends.
        effects: What each edge does in the whole model: of equal losses the edge of least effect goes.
    """

    judges: Mapping[str, Judge]
    two_sided: bool
    allowed: float
    smallest: int
    effects: Mapping[Edge, float]

    @property
    def judge(self) -> Judge:
        return next(iter(self.judges.values()))

    def remove(self, history: Removal) -> Removal:
        """Remove edges as long as the losses allow it."""
        circuit, ties = self.whole_paths(history.circuit), history.ties
        removed, costs = list(history.removed), list(history.losses)
        while len(circuit) > self.smallest:
            edges = sorted(circuit)
            sides = self.removals(circuit, edges)
            losses = sides.sum(0)
            least = np.flatnonzero(losses <= losses.min() + TIE)
            # Of equal effects, the one nearest to the logits.
            best = min(reversed(least), key=lambda place: round(self.effects[edges[place]] / TIE))
            if sides[:, best].max() > self.allowed:
                break
            ties += len(least) > 1
            after = self.whole_paths(circuit - Circuit([edges[best]], circuit.inputs))
            gone = [edges[best], *sorted(circuit.edges - after.edges - {edges[best]})]
            removed += gone
            costs += [float(sides[:, best].max())] * len(gone)
            circuit = after
        return Removal(circuit, tuple(removed), tuple(costs), ties)

    def swapped(self, circuit: Circuit) -> Circuit | None:
        """The best circuit with one edge exchanged for another, if it is better."""
        absent = [edge for edge in self.judge.graph.edges if edge not in circuit.edges]
        best, swapped = float(self.losses([circuit]).sum()) - TIE, None
        for edge in circuit if absent else ():
            less = circuit - Circuit([edge], circuit.inputs)
            losses = self.neighbours(less, absent).sum(0)
            place = int(losses.argmin())
            if losses[place] < best:
                best, swapped = float(losses[place]), less | Circuit([absent[place]], circuit.inputs)
        return swapped

    def whole_paths(self, circuit: Circuit) -> Circuit:
        """A circuit without what nothing feeds, or what feeds nothing, where that changes nothing."""
        return circuit.pruned() if self.judge.options.ablation == "resample" else circuit

    def removals(self, circuit: Circuit, edges: Sequence[Edge]) -> Float[np.ndarray, "side edge"]:
        """The losses without each edge of a circuit, and without what is then left hanging."""
        losses = self.neighbours(circuit, edges)
        if self.two_sided:
            after = [self.whole_paths(circuit - Circuit([edge], circuit.inputs)) for edge in edges]
            more = [number for number, one in enumerate(after) if len(one) < len(circuit) - 1]
            if more:
                losses[:, more] = self.losses([after[number] for number in more])
        return losses

    def neighbours(self, circuit: Circuit, edges: Sequence[Edge]) -> Float[np.ndarray, "side edge"]:
        """The losses of a circuit with each edge removed, where it has it, or added, where not."""
        rest = self.judge.whole - circuit
        kept = [judge.neighbours(circuit, edges) for judge in self.judges.values()]
        left = [judge.neighbours(rest, edges) for judge in self.judges.values()] if self.two_sided else None
        return self._sides(kept, left)

    def losses(self, circuits: Sequence[Circuit]) -> Float[np.ndarray, "side circuit"]:
        """The losses of circuits."""
        rest = [self.judge.whole - one for one in circuits]
        kept = [judge.scores(circuits) for judge in self.judges.values()]
        left = [judge.scores(rest) for judge in self.judges.values()] if self.two_sided else None
        return self._sides(kept, left)

    def _sides(self, kept: Sequence[np.ndarray], left: Sequence[np.ndarray] | None) -> np.ndarray:
        """Losses, of scores `[circuit, example]` by each judge: of circuits, and of what is left without them."""
        short, over = [], []
        for number, judge in enumerate(self.judges.values()):
            unit = max(judge.scale, np.finfo(float).tiny)
            short.append((judge.full.mean() - kept[number].mean(1)) / unit)
            if left is not None:
                over.append((left[number].mean(1) - judge.nothing.mean()) / unit)
        if left is None:
            return np.max(short, axis=0)[None]
        return np.stack([np.max(np.abs(one), axis=0) for one in (short, over)])


def _own_effects(judges: Mapping[str, Judge]) -> dict[Edge, float]:
    """The size of each edge's exact effects in the whole model, noised and, where there is such a thing, denoised, as a
    share of the gap."""
    sizes: dict[Edge, float] = {}
    for judge in judges.values():
        ways = ("noise", "denoise") if judge.options.ablation == "resample" else ("noise",)
        unit = max(judge.scale, np.finfo(float).tiny)
        for way in ways:
            effects = patch_edges(judge.model, judge.pair, options=judge.options.change(direction=way))["effect"]
            for edge, size in score_every_edge(abs(effects) / unit, judge.graph).items():
                sizes[edge] = sizes.get(edge, 0.0) + size
    return sizes
