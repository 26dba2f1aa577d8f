"""How good are circuits on one pair: the metric of each, and what it recovers or costs as a share of the gap.

N is the whole model, C a circuit, 0 the empty circuit, m the metric. The gap is mean m(N) - m(0).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from mechinterp.core import Circuit, ConfigError, Edge, Graph, HookedModel, Options, Pair
from mechinterp.core.statistics import Gap, Interval, gap_between, ratio_of_means, ratio_rows
from mechinterp.interventions.circuits import RUNNER, score_circuits
from mechinterp.interventions.neighbours import score_neighbours
from mechinterp.interventions.placement import as_transformer
from mechinterp.models import Transformer


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores circuits of one model on one pair; each circuit runs once, however often it is asked for.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted examples.
        options: Metric, ablation and input convention.
        least_gap: Of a gap whose interval reaches below this, shares are missing; None for no such bound.

    Raises:
        UnsupportedError: If the model lists no edges.
        SiteError: If a circuit has an edge that the model has not.
    """

    model: HookedModel | nn.Module
    pair: Pair
    options: Options = field(default_factory=Options)
    least_gap: float | None = None
    _scores: dict[Circuit, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    _neighbours: dict[tuple[Circuit, tuple[Edge, ...]], np.ndarray] = field(
        default_factory=dict, init=False, repr=False
    )
    _whole: tuple[Judge, slice | np.ndarray] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", self.options.for_model(self.model))

    @property
    def transformer(self) -> Transformer:
        """The model, checked: circuits can be run in it."""
        return as_transformer(self.model, RUNNER)

    @cached_property
    def graph(self) -> Graph:
        """The model's edges."""
        return self.transformer.config.graph(self.options.inputs)

    @cached_property
    def whole(self) -> Circuit:
        """N: every edge."""
        return Circuit(self.graph.edges, self.graph.inputs)

    @cached_property
    def empty(self) -> Circuit:
        """0: no edge."""
        return Circuit([], self.graph.inputs)

    def circuit(self, edges: Iterable[str | Edge]) -> Circuit:
        """A circuit in this judge's input convention; its edges are checked."""
        return Circuit([self.graph.check(edge) for edge in edges], self.graph.inputs)

    def scores(self, circuits: Sequence[Circuit]) -> Float[np.ndarray, "circuit example"]:
        """The metric of each circuit and example.

        Under resampling a circuit and its pruned form are equal: what nothing feeds puts out its value in the
        corrupted run, which is what an absent edge carries, and what does not reach the logits is not read.
        """
        if not circuits:
            return np.zeros((0, len(self.pair)))
        if self._whole is not None:
            judge, index = self._whole
            return judge.scores(circuits)[:, index]
        prune = self.options.ablation == "resample"
        forms = {one: one.pruned() if prune else one for one in circuits if one not in self._scores}
        fresh = [form for form in dict.fromkeys(forms.values()) if form not in self._scores]
        if fresh:
            values = score_circuits(self.model, self.pair, fresh, options=self.options)
            self._scores.update(zip(fresh, values.detach().cpu().double().numpy(), strict=True))
        self._scores.update({one: self._scores[form] for one, form in forms.items()})
        return np.stack([self._scores[one] for one in circuits])

    def forget(self) -> None:
        """Drop the scores of circuits, which a long search would pile up."""
        (self if self._whole is None else self._whole[0])._scores.clear()

    def neighbours(self, circuit: Circuit, edges: Sequence[Edge]) -> Float[np.ndarray, "edge example"]:
        """The metric of a circuit with each of some edges removed, where it has it, or added, where not."""
        if self._whole is not None:
            judge, index = self._whole
            return judge.neighbours(circuit, edges)[:, index]
        key = (circuit, tuple(edges))
        if key not in self._neighbours:
            self._neighbours.clear()  # Searches ask once per corruption, and then for another circuit.
            values = score_neighbours(self.model, self.pair, circuit, edges, options=self.options)
            self._neighbours[key] = values.detach().cpu().double().numpy()
        return self._neighbours[key]

    @cached_property
    def full(self) -> Float[np.ndarray, " example"]:
        """m(N)."""
        return self.scores([self.whole, self.empty])[0]

    @cached_property
    def nothing(self) -> Float[np.ndarray, " example"]:
        """m(0)."""
        return self.scores([self.whole, self.empty])[1]

    @cached_property
    def gap(self) -> Gap:
        """Mean m(N) - m(0), its interval, and whether it differs from zero and is no smaller than `least_gap`."""
        gap = gap_between(self.full, self.nothing)
        large = self.least_gap is None or gap.low >= self.least_gap
        return gap._replace(valid=gap.valid and large)

    def check_gap(self, corruption: str = "") -> None:
        """Refuse a gap that no share can be taken of.

        Raises:
            ConfigError: If it may be zero.
        """
        gap, where = self.gap, f" under corruption '{corruption}'" if corruption else ""
        if not gap.valid:
            raise ConfigError(
                f"the gap between the clean and the corrupted run{where} is {gap.low:.3g} to {gap.high:.3g} and may be "
                "zero: there is no share of it to reach; give k, more examples, or a trained model"
            )

    def recovered(self, circuit: Circuit) -> Interval:
        """Faithfulness: (m(C) - m(0)) / gap, with Fieller's interval; missing where the gap may be zero."""
        return self._share(self.scores([circuit])[0] - self.nothing)

    def lost(self, circuit: Circuit) -> Interval:
        """Removal cost: (m(N) - m(N without C)) / gap, likewise."""
        return self._share(self.full - self.scores([self.whole - circuit])[0])

    def recovered_rows(self, circuit: Circuit) -> Float[np.ndarray, " example"]:
        """One value per example with mean and spread of `recovered`; NaN where the gap may be zero."""
        return self._rows(self.scores([circuit])[0] - self.nothing)

    def lost_rows(self, circuit: Circuit) -> Float[np.ndarray, " example"]:
        """One value per example with mean and spread of `lost`."""
        return self._rows(self.full - self.scores([self.whole - circuit])[0])

    def recovered_shares(self, circuits: Sequence[Circuit]) -> Float[np.ndarray, " circuit"]:
        """Faithfulness of many circuits, without intervals: random ones, or those of every size."""
        return (self.scores(circuits).mean(1) - self.nothing.mean()) / self.gap.unit

    def lost_shares(self, circuits: Sequence[Circuit]) -> Float[np.ndarray, " circuit"]:
        """Removal cost of many circuits, without intervals."""
        return (self.full.mean() - self.scores([self.whole - one for one in circuits]).mean(1)) / self.gap.unit

    def part(self, index: slice | np.ndarray) -> Judge:
        """The judge of some of the examples: a slice, or their numbers."""
        return self._of(self.pair[index if isinstance(index, slice) else torch.from_numpy(index)], index)

    def by_corruption(self) -> dict[str, Judge]:
        """A judge for each corruption that the pair mixes: on the mixture an easy one could pay for a hard one."""
        parts, names = self.pair.by_corruption(), np.array(self.pair.corruption)
        return {name: self if len(parts) == 1 else self._of(part, names == name) for name, part in parts.items()}

    def _of(self, pair: Pair, index: slice | np.ndarray) -> Judge:
        """The judge of a part of the pair; circuits run once for all, unless a mean is over a part's examples."""
        alone = self.options.ablation.startswith("mean")
        return Judge(self.model, pair, self.options, self.least_gap, _whole=None if alone else (self, index))

    @property
    def scale(self) -> float:
        """The size of the mean gap, whether or not it may be zero."""
        return abs(float(self.full.mean() - self.nothing.mean()))

    @property
    def has_gaps(self) -> bool:
        """Whether there is a gap to take shares of under each corruption."""
        return all(one.gap.valid for one in self.by_corruption().values())

    def _share(self, part: np.ndarray) -> Interval:
        return ratio_of_means(part, self.full - self.nothing) if self.gap.valid else Interval.missing()

    def _rows(self, part: np.ndarray) -> np.ndarray:
        gap = self.full - self.nothing
        return ratio_rows(part, gap) if self.gap.valid else np.full_like(gap, np.nan)
