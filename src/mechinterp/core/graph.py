"""All of a model's wires: what writes to the residual stream, what reads it, and which readers see which sources."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mechinterp.core.errors import SiteError, check_word, suggest
from mechinterp.core.sites import INPUTS, SHARED, Edge, Site


@dataclass(frozen=True)
class Graph:
    """All sources, readers and edges of a model, in topological order.

    Args:
        n_layers: Layers.
        n_heads: Heads per layer.
        mlp: Whether layers have an MLP.
        positions: Whether positions are added to the residual stream (learned positions), and so are a source.
        inputs: `merged` takes embedding and positions as one source, `split` as two.
        shared: Heads that share one key and one value: 1 where each has its own.
        parallel: Whether a layer's MLP reads what its heads read, and not what they write.

    >>> len(Graph(2, 8, mlp=False).edges), len(Graph(2, 8, mlp=False, inputs="split").edges)
    (257, 306)
    >>> [str(reader) for reader in Graph(1, 4, mlp=True, shared=2).readers[:4]]
    ['L0.H0.q', 'L0.H1.q', 'L0.H0-1.k', 'L0.H0-1.v']
    """

    n_layers: int
    n_heads: int
    mlp: bool
    positions: bool = True
    inputs: str = "merged"
    shared: int = 1
    parallel: bool = False

    def __post_init__(self) -> None:
        check_word("inputs", self.inputs, INPUTS)

    @cached_property
    def sources(self) -> tuple[Site, ...]:
        """What writes to the residual stream: inputs first, then each layer's heads and MLP."""
        return (*self.roots, *(site for layer in range(self.n_layers) for site in self.writers(layer)))

    @property
    def roots(self) -> tuple[Site, ...]:
        """The sources that come before any layer."""
        if self.inputs == "merged":
            return (Site("input"),)
        return (Site("embed"), Site("pos")) if self.positions else (Site("embed"),)

    def writers(self, layer: int) -> tuple[Site, ...]:
        """One layer's sources: its heads, then its MLP."""
        heads = tuple(Site("result", layer, head) for head in range(self.n_heads))
        return (*heads, Site("mlp", layer)) if self.mlp else heads

    @cached_property
    def readers(self) -> tuple[Site, ...]:
        """What reads the residual stream: each layer's q, k and v of every head, then its MLP; at last the logits.

        Heads that share a key and a value stand together: their queries, then the key and the value.
        """
        readers: list[Site] = []
        for layer in range(self.n_layers):
            for first in range(0, self.n_heads, self.shared):
                group = [self.fork(kind, layer, head) for kind in "qkv" for head in range(first, first + self.shared)]
                readers += dict.fromkeys(group)
            readers += [Site("mlp", layer)] if self.mlp else []
        return (*readers, Site("logits"))

    def fork(self, kind: str, layer: int, head: int) -> Site:
        """The query, key or value that a head attends with, or its input; others may share a key or a value."""
        first = head - head % self.shared
        return Site(kind, layer, first, first + self.shared - 1) if kind in SHARED else Site(kind, layer, head)

    def forks(self, kind: str, layer: int) -> tuple[Site, ...]:
        """One layer's readers of one kind, `q`, `k` or `v`."""
        return tuple(dict.fromkeys(self.fork(kind, layer, head) for head in range(self.n_heads)))

    def forks_of(self, layer: int, head: int) -> tuple[Site, ...]:
        """The queries, keys and values that a head attends with."""
        return tuple(self.fork(kind, layer, head) for kind in "qkv")

    def incoming(self, reader: Site) -> tuple[Site, ...]:
        """The sources that a reader can see."""
        if reader.layer is None:
            return self.sources
        per_layer = self.n_heads + self.mlp
        own_heads = self.n_heads if reader.kind == "mlp" and not self.parallel else 0
        return self.sources[: len(self.roots) + reader.layer * per_layer + own_heads]

    def input_hook(self, reader: Site) -> str:
        """Hook point where a reader's input can be read and edited; the logits read the last layer's stream."""
        return (Site("resid_post", self.n_layers - 1) if reader.kind == "logits" else reader.input).hook

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, readers in topological order, then sources."""
        return tuple(Edge(source, reader) for reader in self.readers for source in self.incoming(reader))

    @cached_property
    def _places(self) -> dict[Edge, tuple[int, int]]:
        source = {site: number for number, site in enumerate(self.sources)}
        reader = {site: number for number, site in enumerate(self.readers)}
        return {edge: (source[edge.source], reader[edge.reader]) for edge in self.edges}

    def place(self, edge: Edge) -> tuple[int, int]:
        """The numbers of an edge's source and reader.

        Raises:
            SiteError: If the model does not have it.
        """
        return self._places[edge] if edge in self._places else self._places[self.check(edge)]

    def check(self, edge: str | Edge) -> Edge:
        """Return the edge if this model has it.

        Raises:
            SiteError: If it does not, naming the nearest edges that exist.
        """
        parsed = Edge.parse(edge)
        if parsed not in self._places:
            near = suggest(str(parsed), (str(item) for item in self.edges))
            mlps = "MLPs beside the heads" if self.parallel else "MLPs"
            raise SiteError(
                f"no edge '{parsed}': the model has layers 0-{self.n_layers - 1}, {self._heads}, "
                f"{mlps if self.mlp else 'no MLPs'}, inputs='{self.inputs}'.{near}"
            )
        return parsed

    def check_reader(self, site: str | Site) -> Site:
        """Return the reader if this model has it.

        Raises:
            SiteError: If it does not, naming the nearest ones.
        """
        parsed = Site.parse(site)
        if parsed not in self.readers:
            near = suggest(str(parsed), map(str, self.readers))
            raise SiteError(f"no reader '{parsed}': readers are q, k and v of heads, MLPs and the logits.{near}")
        return parsed

    def check_site(self, site: str | Site) -> Site:
        """Return the site if this model has it.

        Raises:
            SiteError: If the layer, head or kind does not exist, naming the nearest site.
        """
        parsed = Site.parse(site)
        layer = None if parsed.layer is None else min(parsed.layer, self.n_layers - 1)
        head = None if parsed.head is None else min(parsed.head, self.n_heads - 1)
        near = Site(parsed.kind, layer) if head is None else self.fork(parsed.kind, layer or 0, head)
        if near != parsed:
            limit = f"layers 0-{self.n_layers - 1}, {self._heads}"
            raise SiteError(f"no site '{parsed}': the model has {limit}. Did you mean '{near}'?")
        if not self.mlp and parsed.kind.startswith("mlp"):
            raise SiteError(f"no site '{parsed}': the model is attention only (d_mlp=0)")
        return parsed

    @property
    def _heads(self) -> str:
        shared = f" that share keys and values {self.shared} by {self.shared}" if self.shared > 1 else ""
        return f"heads 0-{self.n_heads - 1}{shared}"
