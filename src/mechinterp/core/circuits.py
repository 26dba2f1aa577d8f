"""A circuit: the edges claimed to do the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechinterp.core.errors import ConfigError, MechinterpError, check_word
from mechinterp.core.examples import SEEN, join_names, split_names
from mechinterp.core.reading import checked, read_table
from mechinterp.core.settings import Settings
from mechinterp.core.sites import INPUTS, Edge, Site

if TYPE_CHECKING:
    import networkx

LOGITS = Site("logits")


@cache
def component(site: Site) -> Site:
    """The component that a source or reader belongs to: a head's q, k, v and result are one head."""
    return Site("result", site.layer, site.head) if site.head is not None else site


@cache
def owners(reader: Site) -> tuple[Site, ...]:
    """The components that a reader belongs to: several heads where they share a key or a value.

    >>> [str(head) for head in owners(Site.parse("L1.H2-3.k"))]
    ['L1.H2', 'L1.H3']
    """
    return tuple(Site("result", reader.layer, head) for head in reader.heads) or (component(reader),)


@dataclass(frozen=True)
class Circuit:
    """A set of edges, with the input convention they are written in.

    Args:
        edges: The edges; strings are parsed.
        inputs: `merged` (one source `input`) or `split` (`embed` and `pos`).
        origin: How it was found (plain data: method, settings, order, the examples seen). Two circuits with the same
            edges are equal whatever their origins; of set operations' results it holds the examples that either has
            seen and no more, `pruned` keeps all of it.

    Raises:
        ConfigError: If an edge uses the other input convention.

    >>> c = Circuit(["input->L0.H0.v", "L0.H0->logits", "L0.H1->logits"])
    >>> len(c), [str(e) for e in c.pruned()]
    (3, ['input->L0.H0.v', 'L0.H0->logits'])
    """

    edges: frozenset[Edge]
    inputs: str = "merged"
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __init__(
        self,
        edges: Iterable[str | Edge] = (),
        inputs: str = "merged",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        parsed = frozenset(Edge.parse(edge) for edge in edges)
        check_word("inputs", inputs, INPUTS)
        foreign = ("embed", "pos") if inputs == "merged" else ("input",)
        misfits = [edge for edge in parsed if edge.source.kind in foreign]
        if misfits:
            raise ConfigError(f"edge '{min(misfits)}' does not fit inputs='{inputs}'")
        object.__setattr__(self, "edges", parsed)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "origin", dict(origin or {}))

    def __len__(self) -> int:
        return len(self.edges)

    def __iter__(self) -> Iterator[Edge]:
        return iter(sorted(self.edges))

    def __contains__(self, edge: str | Edge) -> bool:
        return Edge.parse(edge) in self.edges

    def __or__(self, other: Circuit) -> Circuit:
        return Circuit(self.edges | self._same(other).edges, self.inputs, self._seen_with(other))

    def __and__(self, other: Circuit) -> Circuit:
        return Circuit(self.edges & self._same(other).edges, self.inputs, self._seen_with(other))

    def __sub__(self, other: Circuit) -> Circuit:
        return Circuit(self.edges - self._same(other).edges, self.inputs, self._seen_with(other))

    def _same(self, other: Circuit) -> Circuit:
        if other.inputs != self.inputs:
            raise ConfigError(f"one circuit has inputs='{self.inputs}', the other '{other.inputs}'")
        return other

    def _seen_with(self, other: Circuit) -> dict[str, str]:
        known = [split_names(one.origin[SEEN]) for one in (self, other) if SEEN in one.origin]
        return {SEEN: join_names(*known)} if known else {}

    @property
    def components(self) -> tuple[Site, ...]:
        """Heads, MLPs, inputs and logits that some edge touches, in topological order."""
        touched = {part for edge in self.edges for part in (component(edge.source), *owners(edge.reader))}
        return tuple(sorted(touched))

    def pruned(self) -> Circuit:
        """Only the edges that lie on a path from an input to the logits."""
        after: dict[Site, list[Site]] = {}
        before: dict[Site, list[Site]] = {}
        for edge in self.edges:
            source = component(edge.source)
            for owner in owners(edge.reader):
                after.setdefault(source, []).append(owner)
                before.setdefault(owner, []).append(source)
        roots = [site for site in after if site.layer is None]
        fed, used = _reach(roots, after), _reach([LOGITS], before)
        live = (e for e in self.edges if component(e.source) in fed and not used.isdisjoint(owners(e.reader)))
        return Circuit(live, self.inputs, self.origin)

    def jaccard(self, other: Circuit) -> float:
        """Shared edges over all edges of both; 1 for two empty circuits."""
        union = self | other
        return len(self & other) / len(union) if len(union) else 1.0

    def to_networkx(self) -> networkx.DiGraph:
        """A directed graph over components; parallel wires (q, k, v) are listed in the edge's `ports`."""
        import networkx

        graph = networkx.DiGraph()
        for edge in self:
            port = edge.reader.kind
            for a, b in ((str(component(edge.source)), str(owner)) for owner in owners(edge.reader)):
                if graph.has_edge(a, b):
                    graph.edges[a, b]["ports"].append(port)
                else:
                    graph.add_edge(a, b, ports=[port])
        return graph

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON or TOML."""
        plain: dict[str, object] = {"inputs": self.inputs, "edges": [str(edge) for edge in self]}
        return plain | {"origin": dict(self.origin)} if self.origin else plain

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Circuit:
        """The reverse of `to_dict`.

        Raises:
            ConfigError: If the data are no circuit.
        """
        record = checked(data, _CircuitRecord, "circuit", ConfigError)
        return cls(record.edges, record.inputs, record.origin)

    @classmethod
    def from_file(cls, path: str | Path) -> Circuit:
        """A circuit from a JSON file, as `mechinterp discover` writes it.

        Raises:
            ConfigError: If there is no such file, or it holds no circuit.
        """
        if not Path(path).exists():
            raise ConfigError(f"no circuit at {path}: `mechinterp discover` writes one")
        try:
            return cls.from_dict(read_table(path, "json", ConfigError))
        except MechinterpError as error:
            raise ConfigError(f"{path} is no circuit: {error}") from error

    def __repr__(self) -> str:
        shown = ", ".join(str(edge) for edge in list(self)[:6])
        return f"Circuit({len(self)} edges, inputs='{self.inputs}': {shown}{', ...' if len(self) > 6 else ''})"


class _CircuitRecord(Settings):
    """What `Circuit.to_dict` writes."""

    edges: tuple[str, ...]
    inputs: str = "merged"
    origin: dict[str, object] | None = None


def rank_edges(scores: Mapping[Edge, float] | Mapping[str, float], by: str = "signed") -> tuple[Edge, ...]:
    """Edges by falling score; equal scores stand in topological order, so that a ranking is the same everywhere.

    Args:
        scores: Edge (or its text) -> score, positive means that keeping the edge helps.
        by: `signed` ranks edges that hurt last, `absolute` ranks by size whatever the sign.

    Raises:
        ConfigError: If a score is NaN or `by` is unknown.

    >>> rank_edges({"input->logits": -2.0, "L0.H0->logits": 1.0}, by="absolute")[0]
    Edge('input->logits')
    """
    check_word("by", by, ("signed", "absolute"))
    parsed = {Edge.parse(edge): float(score) for edge, score in scores.items()}
    broken = [str(edge) for edge, score in parsed.items() if score != score]
    if broken:
        raise ConfigError(f"{len(broken)} edges have a NaN score (the first: '{broken[0]}') and cannot be ranked")
    size = abs if by == "absolute" else float
    return tuple(sorted(sorted(parsed), key=lambda edge: -size(parsed[edge])))


def _reach(start: Iterable[Site], steps: dict[Site, list[Site]]) -> set[Site]:
    """All sites that steps lead to from the start, the start among them."""
    reached: set[Site] = set()
    stack = list(start)
    while stack:
        site = stack.pop()
        if site not in reached:
            reached.add(site)
            stack += steps.get(site, [])
    return reached
