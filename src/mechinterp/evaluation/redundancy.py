"""Which components stand in for each other: exact effects of one without the other, and what follows from them.

Removing one component at a time shows nothing where another takes over. For each two components A and B of a circuit C
the four values m(C), m(C without A), m(C without B), m(C without both) give A's effect where B is there and where it is
gone, and B's likewise. Where the two effects of A differ, so do those of B, by the same: the interaction.

===============  =====================================================================================================
relation         meaning
===============  =====================================================================================================
`independent`    neither's effect depends on the other
`or`             each matters less while the other is there: they stand in for each other
`backup`         an `or` in which the later one sees that the earlier is gone, and makes up for it
`and`            each matters more while the other is there, as two links of a chain do
`suppression`    one works against what the other does
`undecided`      there is no gap, or these examples do not show whether there is an interaction
===============  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import networkx
import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import nn

from mechinterp._version import __version__
from mechinterp.core import Circuit, HookedModel, Options, Pair, Site, component, in_words, owners, takes
from mechinterp.core.statistics import CONFIDENCE, Interval, mean_interval
from mechinterp.interventions import Judge

RELATIONS = ("independent", "or", "backup", "and", "suppression", "undecided")
INTERACTION = 0.1
"""The share of the gap that an interaction must exceed."""


@dataclass(frozen=True)
class Group:
    """Components that must be judged together.

    Args:
        relation: `or`, `backup`, `and` or `suppression`.
        parts: The components; of a backup the one it stands by for comes first, of a suppression the suppressed one.
        effect: What removing all of them costs, in the metric's unit.
        alone: What removing each alone costs.
    """

    relation: str
    parts: tuple[Site, ...]
    effect: Interval
    alone: tuple[float, ...]

    def __str__(self) -> str:
        names = [str(part) for part in self.parts]
        if self.relation == "backup":
            return f"{names[1]} stands by for {names[0]}"
        if self.relation == "suppression":
            return f"{names[1]} works against {names[0]}"
        return in_words(names, self.relation)


@dataclass(frozen=True, eq=False)
class Redundancy:
    """How the components of a circuit depend on each other.

    Args:
        groups: Components that stand in for each other, need each other, or work against each other.
        data: The numbers behind them: see `redundancy`.
    """

    groups: tuple[Group, ...]
    data: xr.Dataset


@takes("metric", "ablation", "inputs")
def redundancy(
    model: HookedModel | nn.Module,
    pair: Pair,
    circuit: Circuit | None = None,
    *,
    share: float = INTERACTION,
    options: Options,
) -> Redundancy:
    """Exact effects of every two heads and MLPs, and the groups that follow.

    An interaction counts where its mean exceeds a share of the gap, and its interval, at 95% for all pairs together,
    leaves out zero. `or` and `and` groups are the components that such pairs connect. Where three or more stand in for
    each other no pair shows it: of the components without any effect, the smallest set whose joint removal shows is
    sought by leaving out one after the other.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        circuit: The circuit C; by default the whole model, which shows stand-ins that a circuit left out.
        share: Of the gap, from which on an interaction counts.
        options: See `Options`; the input convention is the circuit's, where one is given.

    Returns:
        The groups, and as data: `part_effect`, `_low`, `_high` (part): what removing a component costs;
        `part_effect_without` (part, other_part): the same in C without the other; `interaction`, `_low`, `_high` (part,
        other_part): the difference of the two; `relation` (part, other_part), one of `RELATIONS`, empty for a
        part and itself; `made_up` (part,
        other_part): how much of `part`'s removal a later `other_part` makes up for because it sees it, NaN where it
        cannot see it; `group_parts`, `group_relation`, `group_effect`, `_low`, `_high` (group).

    Source: the four kinds are those of noising and denoising in Heimersheim & Nanda 2024, "How to use and interpret
    activation patching"; backup heads are those of Wang et al. 2022.
    """
    judge = Judge(model, pair, options if circuit is None else options.change(inputs=circuit.inputs))
    result = judged_redundancy(judge, judge.whole if circuit is None else judge.circuit(circuit), share)
    return replace(result, data=result.data.assign_attrs(judge.options.attrs("metric", "ablation")))


def judged_redundancy(judge: Judge, circuit: Circuit, share: float = INTERACTION) -> Redundancy:
    """`redundancy` by a judge, which runs no circuit twice."""
    parts = parts_of(circuit)
    pairs = list(combinations(parts, 2))
    table = _Table(judge, circuit, share * abs(judge.gap.unit), 1 - (1 - CONFIDENCE) / max(len(pairs), 1))
    table.run([[], *([part] for part in parts), *pairs])
    index = {part: i for i, part in enumerate(parts)}
    shape = (len(parts), len(parts))
    numbers = {name: np.full(shape, np.nan) for name in ("part_effect_without", "made_up")}
    ends = {f"interaction{end}": np.full(shape, np.nan) for end in ("", "_low", "_high")}
    relation = np.full(shape, "", dtype="<U11")
    for a, b in pairs:
        i, j = index[a], index[b]
        numbers["part_effect_without"][i, j] = table.effect(a, [b]).value
        numbers["part_effect_without"][j, i] = table.effect(b, [a]).value
        numbers["made_up"][i, j] = table.made_up(a, b).value
        both = table.interaction(a, b)
        for name, value in zip(ends, (both.value, *both.ends), strict=True):
            ends[name][i, j] = ends[name][j, i] = value
        relation[i, j] = relation[j, i] = table.relation(a, b)
    alone = [table.effect(part) for part in parts]
    data = xr.Dataset(
        {
            "part_effect": ("part", np.array([one.value for one in alone])),
            "part_effect_low": ("part", np.array([one.low for one in alone])),
            "part_effect_high": ("part", np.array([one.high for one in alone])),
            **{name: (("part", "other_part"), values) for name, values in (numbers | ends).items()},
            "relation": (("part", "other_part"), relation),
        },
        coords={name: np.array([str(part) for part in parts], dtype=str) for name in ("part", "other_part")},
        attrs={"share": share, "version": __version__},
    )
    groups = tuple(_groups(table, parts, relation))
    return Redundancy(groups, data.assign(_group_variables(groups)))


def parts_of(circuit: Circuit) -> list[Site]:
    """Heads and MLPs that some edge touches, in topological order."""
    return [part for part in circuit.components if part.layer is not None]


def without(circuit: Circuit, parts: Iterable[Site]) -> Circuit:
    """The circuit without all edges that touch some components; what others read as well stays."""
    gone = set(parts)
    left = (e for e in circuit.edges if component(e.source) not in gone and not gone.issuperset(owners(e.reader)))
    return Circuit(left, circuit.inputs)


@dataclass(frozen=True, eq=False)
class _Table:
    """Effects of components in a circuit, with and without others."""

    judge: Judge
    circuit: Circuit
    limit: float
    confidence: float
    _values: dict[frozenset[Site], np.ndarray] = field(default_factory=dict, repr=False)

    def run(self, groups: Sequence[Sequence[Site]]) -> None:
        """Judge the circuit without each group of components, all at once."""
        values = self.judge.scores([without(self.circuit, group) for group in groups])
        self._values.update({frozenset(group): row for group, row in zip(groups, values, strict=True)})

    def value(self, parts: Sequence[Site]) -> Float[np.ndarray, " example"]:
        """m(C without some components)."""
        if frozenset(parts) not in self._values:
            self.run([parts])
        return self._values[frozenset(parts)]

    def effect(self, part: Site, gone: Sequence[Site] = ()) -> Interval:
        """What removing a component costs where others are gone already."""
        return mean_interval(self.value(gone) - self.value([*gone, part]))

    def loss(self, parts: Sequence[Site]) -> Interval:
        """What removing some components together costs."""
        return mean_interval(self.value([]) - self.value(parts), self.confidence)

    def interaction(self, a: Site, b: Site) -> Interval:
        """How much larger a's effect is, and b's, where the other is there."""
        rows = self.value([]) - self.value([a]) - self.value([b]) + self.value([a, b])
        return mean_interval(rows, self.confidence)

    def made_up(self, a: Site, b: Site) -> Interval:
        """How much of a's removal b makes up for because it sees it.

        Compared are the circuit without a, and the same in which a still reaches b as before, and nothing else.
        """
        onward = self.circuit.to_networkx()
        if str(b) not in onward or str(a) not in onward or not networkx.has_path(onward, str(a), str(b)):
            return Interval.missing()
        lead = networkx.ancestors(onward, str(b)) | {str(b)}
        lost = [
            edge
            for edge in self.circuit.edges
            if component(edge.source) == a and lead.isdisjoint(str(owner) for owner in owners(edge.reader))
        ]
        unseen = self.judge.scores([Circuit(self.circuit.edges - set(lost), self.circuit.inputs)])[0]
        return mean_interval(self.value([a]) - unseen, self.confidence)

    def counts(self, effect: Interval) -> bool:
        """Whether an effect is beyond the limit, and sure."""
        return abs(effect.value) > self.limit and effect.leaves_out_zero

    def relation(self, a: Site, b: Site) -> str:
        """How two components depend on each other; a is the earlier one."""
        both = self.interaction(a, b)
        if not self.judge.gap.valid:
            return "undecided"
        if not self.counts(both):
            return "undecided" if abs(both.value) > self.limit else "independent"
        shrinks = [
            abs(self.effect(one).value) < abs(self.effect(one, [other]).value) for one, other in ((a, b), (b, a))
        ]
        if all(shrinks):
            made_up = self.made_up(a, b)
            helps = made_up.value * self.effect(a, [b]).value > 0
            return "backup" if made_up.valid and self.counts(made_up) and helps else "or"
        return "suppression" if any(shrinks) else "and"


def _groups(table: _Table, parts: Sequence[Site], relation: np.ndarray) -> Iterable[Group]:
    related = {word: [(i, j) for i, j in np.argwhere(relation == word) if i < j] for word in RELATIONS}
    for word in ("or", "and"):
        graph = networkx.Graph(related[word])
        for members in sorted(sorted(group) for group in networkx.connected_components(graph)):
            yield _group(table, word, [parts[i] for i in members])
    for i, j in related["backup"]:
        yield _group(table, "backup", [parts[i], parts[j]])
    for i, j in related["suppression"]:
        a, b = parts[i], parts[j]
        # What is suppressed matters less while the other is there, and the suppressor more.
        suppressed = abs(table.effect(a).value) < abs(table.effect(a, [b]).value)
        yield _group(table, "suppression", [a, b] if suppressed else [b, a])
    tied = {parts[i] for word in ("or", "backup") for both in related[word] for i in both}
    idle = [part for part in parts if part not in tied and abs(table.effect(part).value) <= table.limit]
    while len(idle) > 2 and _stand_in(table, idle):
        group = idle
        for part in idle:
            rest = [one for one in group if one != part]
            group = rest if _stand_in(table, rest) else group
        yield _group(table, "or", group)
        idle = [part for part in idle if part not in group]


def _stand_in(table: _Table, parts: Sequence[Site]) -> bool:
    """Whether removing some components together costs more than one after the other."""
    rows = table.value([]) - table.value(parts)
    rows = rows - sum((table.value([]) - table.value([part]) for part in parts), np.zeros(len(rows)))
    return table.counts(mean_interval(rows, table.confidence))


def _group(table: _Table, word: str, parts: Sequence[Site]) -> Group:
    return Group(word, tuple(parts), table.loss(parts).without_rows, tuple(table.effect(one).value for one in parts))


def _group_variables(groups: Sequence[Group]) -> dict[str, tuple[str, np.ndarray]]:
    parts = ["; ".join(map(str, group.parts)) for group in groups]
    return {
        "group_parts": ("group", np.array(parts, dtype=str)),
        "group_relation": ("group", np.array([group.relation for group in groups], dtype=str)),
        "group_effect": ("group", np.array([group.effect.value for group in groups], dtype=float)),
        "group_effect_low": ("group", np.array([group.effect.low for group in groups], dtype=float)),
        "group_effect_high": ("group", np.array([group.effect.high for group in groups], dtype=float)),
    }
