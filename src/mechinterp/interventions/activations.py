"""One run of a `Transformer`, with everything that later runs can start again from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mechinterp.core import Graph, Site
from mechinterp.interventions.hooks import quiet
from mechinterp.models import Positions, Transformer


@dataclass(frozen=True, eq=False)
class Activations:
    """What one run computed; tuples have an entry per layer.

    Args:
        resid_pre: Residual stream before each layer, and at last before the final norm, `[batch, seq, d_model]`.
        resid_mid: Between attention and MLP, `[batch, seq, d_model]`.
        q: Queries before rotary positions, `[batch, seq, head, d_head]`; `k`, `v` and `z` likewise.
        post: MLP neurons, `[batch, seq, d_mlp]`; empty without MLPs.
        embed: Embedding alone, `[batch, seq, d_model]`.
        pos: Learned positions, `[batch, seq, d_model]`, or None.
        where: The positions of the sequence.
    """

    resid_pre: tuple[Tensor, ...]
    resid_mid: tuple[Tensor, ...]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    embed: Tensor
    pos: Tensor | None
    where: Positions

    @property
    def final(self) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream before the final norm."""
        return self.resid_pre[-1]


def activations(model: Transformer, inputs: Tensor) -> Activations:
    """Run a model once and keep all of it.

    Args:
        model: A `Transformer` without hooks.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
    """
    layers, mlp = range(model.config.n_layers), model.config.d_mlp > 0
    inside = {kind: [Site(kind, layer) for layer in layers] for kind in ("q", "k", "v", "z")}
    inside |= {kind: [Site(kind, layer) for layer in layers] for kind in ("resid_mid", "post") if mlp}
    sites = [Site("embed"), *([Site("pos")] if model.config.position_source else []), *chain(*inside.values())]
    with quiet(model), _watched(model, sites) as at:
        resid, where = model.embedded(inputs)
        stream = [resid]
        for block in model.blocks:
            stream.append(block(stream[-1], where))
    values = {kind: tuple(at[site] for site in each) for kind, each in inside.items()}
    if not mlp:
        values |= {"resid_mid": tuple(stream[1:]), "post": ()}
    return Activations(**values, resid_pre=tuple(stream), embed=at[Site("embed")], pos=at.get(Site("pos")), where=where)


@contextmanager
def _watched(model: Transformer, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """What passes through some hook points, by site; `record` checks more and takes longer."""
    values: dict[Site, Tensor] = {}

    def watch(site: Site) -> RemovableHandle:
        return model.hook_dict[site.hook].register_forward_hook(lambda *call: values.update({site: call[-1]}))

    handles = [watch(site) for site in sites]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def source_values(model: Transformer, acts: Activations, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """What each source of the graph writes to the residual stream, without biases, which belong to no source."""
    parts: list[Tensor] = [acts.resid_pre[0]]
    if graph.inputs == "split":
        parts = [acts.embed] if acts.pos is None else [acts.embed, acts.pos]
    for layer, block in enumerate(model.blocks):
        parts += block.attn.write_heads(acts.z[layer]).unbind(-2)
        if block.has_mlp:
            parts.append(block.mlp.write(acts.post[layer]))
    return torch.stack(parts)
