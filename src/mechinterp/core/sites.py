"""Addresses: one activation (`Site`), one wire between components (`Edge`), and all of a model's wires (`Graph`).

A model is a sum into one residual stream. *Sources* write to it (embedding, positions, heads, MLPs);
*readers* take from it (each head's q, k and v, each MLP, the logits). An edge is a source seen by a reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from mechinterp.core.errors import SiteError, check_word, suggest

INPUTS = ("merged", "split")
"""Embedding and positions as one source, or as two."""

_WHOLE = {"input": "blocks.0.hook_resid_pre", "embed": "hook_embed", "pos": "hook_pos_embed", "logits": "logits"}
_LAYER = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "mlp_in": "hook_mlp_in",
    "mlp_pre": "mlp.hook_pre",
    "mlp_post": "mlp.hook_post",
}
_HEAD = {
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "result": "attn.hook_result",
    "pattern": "attn.hook_pattern",
    "scores": "attn.hook_attn_scores",
    "q_input": "hook_q_input",
    "k_input": "hook_k_input",
    "v_input": "hook_v_input",
}
_ALIASES = {"attn_out": "attn", "mlp_out": "mlp", "post": "mlp_post", "neurons": "mlp_post", "pos_embed": "pos"}
KINDS = (*_WHOLE, *_LAYER, *_HEAD)
_ADDRESS = re.compile(r"^(?:L(?P<layer>[0-9]{1,9}))?(?:\.?H(?P<head>[0-9]{1,9}))?(?:\.?(?P<kind>[a-z_]+))?$")


@dataclass(frozen=True)
class Site:
    """The address of one activation.

    Args:
        kind: What it is: `input`, `embed`, `pos`, `logits`; with a layer `resid_pre`, `resid_mid`, `resid_post`,
            `attn`, `mlp`, `mlp_in`, `mlp_pre`, `mlp_post`; with a layer and a head `q`, `k`, `v`, `z`, `result`,
            `pattern`, `scores`, `q_input`, `k_input`, `v_input`.
        layer: Layer, from 0; None for a site of the whole model.
        head: Head, from 0; None where the kind has no heads, or for all of a layer's heads.

    Raises:
        SiteError: If the kind is unknown or misses its layer.

    >>> Site.parse("L1.H3.z"), str(Site.parse("L0.H2.result")), Site.parse("L0.mlp").hook
    (Site('L1.H3.z'), 'L0.H2', 'blocks.0.hook_mlp_out')
    """

    kind: str
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        kind = _ALIASES.get(self.kind, self.kind)
        object.__setattr__(self, "kind", kind)
        if kind not in KINDS:
            raise SiteError(f"no site of kind '{self.kind}'.{suggest(self.kind, [*KINDS, *_ALIASES])}")
        if (self.layer is None) != (kind in _WHOLE):
            need = "takes no layer" if kind in _WHOLE else "needs a layer, as in 'L0." + kind + "'"
            raise SiteError(f"site '{kind}' {need}")
        if self.head is not None and kind not in _HEAD:
            raise SiteError(f"site '{kind}' has no heads, so no head {self.head}")

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read an address such as `L1.H3.z`, `L0.mlp`, `embed`; `L0.H2` is that head's result."""
        if isinstance(text, Site):
            return text
        match = _ADDRESS.match(text.strip())
        if not match or not text.strip():
            raise SiteError(f"no site '{text}': write 'L1.H3.z', 'L0.mlp', 'L1.resid_pre', 'embed' or 'logits'")
        layer, head, kind = match["layer"], match["head"], match["kind"]
        if kind is None:
            if layer is None or head is None:
                raise SiteError(f"no site '{text}': name what to read there, as in '{text}.resid_post'")
            kind = "result"
        return cls(kind, None if layer is None else int(layer), None if head is None else int(head))

    @property
    def hook(self) -> str:
        """TransformerLens's name of the hook point (all heads share one)."""
        if self.kind in _WHOLE:
            return _WHOLE[self.kind]
        return f"blocks.{self.layer}.{_LAYER.get(self.kind) or _HEAD[self.kind]}"

    @property
    def input(self) -> Site:
        """Where a reader takes its input, before the layer norm; `logits` stands for itself."""
        if self.kind in ("q", "k", "v"):
            return Site(f"{self.kind}_input", self.layer, self.head)
        return Site("mlp_in", self.layer) if self.kind == "mlp" else self

    @property
    def has_heads(self) -> bool:
        """Whether the activation has a head axis."""
        return self.kind in _HEAD

    def __str__(self) -> str:
        if self.layer is None:
            return self.kind
        if self.head is None:
            return f"L{self.layer}.{self.kind}"
        return f"L{self.layer}.H{self.head}" + ("" if self.kind == "result" else f".{self.kind}")

    def __repr__(self) -> str:
        return f"Site('{self}')"

    def __lt__(self, other: Site) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[float, int, int, str]:
        depth = {"input": -3, "embed": -2, "pos": -1, "logits": float("inf")}.get(self.kind, self.layer or 0)
        stage = KINDS.index(self.kind)
        late = self.kind in ("mlp", "mlp_in", "mlp_pre", "mlp_post", "resid_post")
        return (depth, int(late), -1 if self.head is None else self.head, f"{stage:02d}")


def is_reader_input(hook: str) -> bool:
    """Whether a hook point is where single readers take their input, and not the stream that all share.

    >>> is_reader_input("blocks.1.hook_k_input"), is_reader_input("blocks.1.hook_resid_mid")
    (True, False)
    """
    inputs = {_LAYER["mlp_in"], *(_HEAD[f"{kind}_input"] for kind in "qkv")}
    return hook.rsplit(".", 1)[-1] in inputs


@dataclass(frozen=True)
class Edge:
    """The wire from one component's output into another's input, `L0.H2->L1.H1.k`.

    Args:
        source: `input`, `embed`, `pos`, a head (`L0.H2`) or an MLP (`L0.mlp`).
        reader: A head's `q`, `k` or `v`, an MLP (`L1.mlp`), or `logits`.

    >>> edge = Edge.parse("L0.H2->L1.H1.k")
    >>> str(edge.source), str(edge.reader), edge.hook
    ('L0.H2', 'L1.H1.k', 'blocks.1.hook_k_input')
    """

    source: Site
    reader: Site

    @classmethod
    def parse(cls, text: str | Edge) -> Edge:
        """Read `source->reader`."""
        if isinstance(text, Edge):
            return text
        parts = text.split("->")
        if len(parts) != 2:
            raise SiteError(f"no edge '{text}': write 'L0.H2->L1.H1.k', 'input->L0.mlp' or 'L1.H0->logits'")
        return cls(Site.parse(parts[0]), Site.parse(parts[1]))

    @property
    def hook(self) -> str:
        """TransformerLens's name of the hook point where the reader takes its input (before the layer norm)."""
        return self.reader.input.hook

    def __str__(self) -> str:
        return f"{self.source}->{self.reader}"

    def __repr__(self) -> str:
        return f"Edge('{self}')"

    def __lt__(self, other: Edge) -> bool:
        return (self.reader, self.source) < (other.reader, other.source)


@dataclass(frozen=True)
class Graph:
    """All sources, readers and edges of a model, in topological order.

    Args:
        n_layers: Layers.
        n_heads: Heads per layer.
        mlp: Whether layers have an MLP.
        positions: Whether positions are added to the residual stream (learned positions), and so are a source.
        inputs: `merged` takes embedding and positions as one source, `split` as two.

    >>> len(Graph(2, 8, mlp=False).edges), len(Graph(2, 8, mlp=False, inputs="split").edges)
    (257, 306)
    """

    n_layers: int
    n_heads: int
    mlp: bool
    positions: bool = True
    inputs: str = "merged"

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
        """What reads the residual stream: each layer's q, k and v of every head, then its MLP; at last the logits."""
        readers: list[Site] = []
        for layer in range(self.n_layers):
            readers += [Site(kind, layer, head) for head in range(self.n_heads) for kind in "qkv"]
            readers += [Site("mlp", layer)] if self.mlp else []
        return (*readers, Site("logits"))

    def forks(self, kind: str, layer: int) -> tuple[Site, ...]:
        """One layer's readers of one kind, `q`, `k` or `v`."""
        return tuple(Site(kind, layer, head) for head in range(self.n_heads))

    def forks_of(self, layer: int, head: int) -> tuple[Site, ...]:
        """The queries, keys and values that a head attends with."""
        return tuple(Site(kind, layer, head) for kind in "qkv")

    def incoming(self, reader: Site) -> tuple[Site, ...]:
        """The sources that a reader can see."""
        if reader.layer is None:
            return self.sources
        per_layer = self.n_heads + self.mlp
        own_heads = self.n_heads if reader.kind == "mlp" else 0
        return self.sources[: len(self.roots) + reader.layer * per_layer + own_heads]

    def input_hook(self, reader: Site) -> str:
        """Hook point where a reader's input can be read and edited; the logits read the last layer's stream."""
        return (Site("resid_post", self.n_layers - 1) if reader.kind == "logits" else reader.input).hook

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, readers in topological order, then sources."""
        return tuple(Edge(source, reader) for reader in self.readers for source in self.incoming(reader))

    @cached_property
    def _known(self) -> frozenset[Edge]:
        return frozenset(self.edges)

    def check(self, edge: str | Edge) -> Edge:
        """Return the edge if this model has it.

        Raises:
            SiteError: If it does not, naming the nearest edges that exist.
        """
        parsed = Edge.parse(edge)
        if parsed not in self._known:
            near = suggest(str(parsed), (str(item) for item in self.edges))
            raise SiteError(
                f"no edge '{parsed}': the model has layers 0-{self.n_layers - 1}, heads 0-{self.n_heads - 1}, "
                f"{'MLPs' if self.mlp else 'no MLPs'}, inputs='{self.inputs}'.{near}"
            )
        return parsed

    def check_site(self, site: str | Site) -> Site:
        """Return the site if this model has it.

        Raises:
            SiteError: If the layer, head or kind does not exist, naming the nearest site.
        """
        parsed = Site.parse(site)
        layer = None if parsed.layer is None else min(parsed.layer, self.n_layers - 1)
        head = None if parsed.head is None else min(parsed.head, self.n_heads - 1)
        near = Site(parsed.kind, layer, head)
        if near != parsed:
            limit = f"layers 0-{self.n_layers - 1}, heads 0-{self.n_heads - 1}"
            raise SiteError(f"no site '{parsed}': the model has {limit}. Did you mean '{near}'?")
        if not self.mlp and parsed.kind.startswith("mlp"):
            raise SiteError(f"no site '{parsed}': the model is attention only (d_mlp=0)")
        return parsed
