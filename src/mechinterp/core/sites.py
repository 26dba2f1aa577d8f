"""Addresses: one activation (`Site`) and one wire between components (`Edge`).

A model is a sum into one residual stream. *Sources* write to it (embedding, positions, heads, MLPs);
*readers* take from it (each head's q, k and v, each MLP, the logits). An edge is a source seen by a reader.

Where several heads share one key and one value (grouped queries), the address of these names all of the heads:
`L1.H2-3.k` is the key that heads 2 and 3 of layer 1 attend with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mechinterp.core.errors import SiteError, suggest

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
SHARED = ("k", "v", "k_input", "v_input")
"""What several heads may have in common."""
_ADDRESS = re.compile(
    r"^(?:L(?P<layer>[0-9]{1,9}))?(?:\.?H(?P<head>[0-9]{1,9})(?:-(?P<last>[0-9]{1,9}))?)?(?:\.?(?P<kind>[a-z_]+))?$"
)


@dataclass(frozen=True)
class Site:
    """The address of one activation.

    Args:
        kind: What it is: `input`, `embed`, `pos`, `logits`; with a layer `resid_pre`, `resid_mid`, `resid_post`,
            `attn`, `mlp`, `mlp_in`, `mlp_pre`, `mlp_post`; with a layer and a head `q`, `k`, `v`, `z`, `result`,
            `pattern`, `scores`, `q_input`, `k_input`, `v_input`.
        layer: Layer, from 0; None for a site of the whole model.
        head: Head, from 0; None where the kind has no heads, or for all of a layer's heads.
        last: Last of the heads that share one `k` or `v`, of which `head` is the first; None where it is its alone.

    Raises:
        SiteError: If the kind is unknown or misses its layer, or heads cannot share it.

    >>> Site.parse("L1.H3.z"), str(Site.parse("L0.H2.result")), Site.parse("L0.mlp").hook
    (Site('L1.H3.z'), 'L0.H2', 'blocks.0.hook_mlp_out')
    >>> shared = Site.parse("L1.H2-3.k")
    >>> shared.heads, shared.index
    (range(2, 4), 1)
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    last: int | None = None

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
        if self.last == self.head:
            object.__setattr__(self, "last", None)
        if self.last is None:
            return
        if kind not in SHARED or self.head is None or self.last < self.head:
            raise SiteError(f"no heads {self.head}-{self.last} of '{kind}': heads share only {', '.join(SHARED)}")
        if self.head % len(self.heads):
            raise SiteError(f"no heads {self.head}-{self.last}: heads share keys and values in groups of equal size")

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read an address such as `L1.H3.z`, `L0.mlp`, `embed`; `L0.H2` is that head's result."""
        if isinstance(text, Site):
            return text
        match = _ADDRESS.match(text.strip())
        if not match or not text.strip():
            raise SiteError(f"no site '{text}': write 'L1.H3.z', 'L0.mlp', 'L1.resid_pre', 'embed' or 'logits'")
        layer, head, last, kind = match["layer"], match["head"], match["last"], match["kind"]
        if kind is None:
            if layer is None or head is None:
                raise SiteError(f"no site '{text}': name what to read there, as in '{text}.resid_post'")
            kind = "result"
        return cls(kind, *(None if number is None else int(number) for number in (layer, head, last)))

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
            return Site(f"{self.kind}_input", self.layer, self.head, self.last)
        return Site("mlp_in", self.layer) if self.kind == "mlp" else self

    @property
    def has_heads(self) -> bool:
        """Whether the activation has a head axis."""
        return self.kind in _HEAD

    @property
    def heads(self) -> range:
        """The heads that it belongs to; none where it has no head."""
        if self.head is None:
            return range(0)
        return range(self.head, (self.head if self.last is None else self.last) + 1)

    @property
    def index(self) -> int:
        """Its place on the head axis of the activation, which has an entry for each group of heads that share one."""
        return 0 if self.head is None else self.head // len(self.heads)

    def __str__(self) -> str:
        if self.layer is None:
            return self.kind
        if self.head is None:
            return f"L{self.layer}.{self.kind}"
        heads = f"H{self.head}" if self.last is None else f"H{self.head}-{self.last}"
        return f"L{self.layer}.{heads}" + ("" if self.kind == "result" else f".{self.kind}")

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
        reader: A head's `q`, `k` or `v` (`L1.H2-3.k` where heads share it), an MLP (`L1.mlp`), or `logits`.

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
