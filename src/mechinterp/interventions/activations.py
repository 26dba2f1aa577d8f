"""One run of a `Transformer`, with everything that later runs can start again from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Graph, Site
from mechinterp.interventions.hooks import record
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


@torch.no_grad()
def activations(model: Transformer, inputs: Tensor) -> Activations:
    """Run a model once and keep all of it.

    Args:
        model: A `Transformer` without hooks.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
    """
    layers, mlp = range(model.config.n_layers), model.config.d_mlp > 0
    kinds = ["resid_pre", "q", "k", "v", "z", *(["resid_mid", "post"] if mlp else [])]
    sites = {kind: [Site(kind, layer) for layer in layers] for kind in kinds}
    sites["resid_pre"].append(Site("resid_post", layers[-1]))
    whole = [Site("embed"), *([Site("pos")] if model.config.position_source else [])]
    _, by_hook = record(model, inputs, [*whole, *(site for each in sites.values() for site in each)])
    values = {kind: tuple(by_hook[site.hook] for site in each) for kind, each in sites.items()}
    if not mlp:
        values |= {"resid_mid": values["resid_pre"][1:], "post": ()}
    embed, pos = by_hook[Site("embed").hook], by_hook.get(Site("pos").hook)
    return Activations(**values, embed=embed, pos=pos, where=model.embedded(inputs)[1])


def source_values(model: Transformer, acts: Activations, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """What each source of the graph writes to the residual stream, without biases, which belong to no source."""
    parts: list[Tensor] = [acts.resid_pre[0]]
    if graph.inputs == "split":
        parts = [acts.embed] if acts.pos is None else [acts.embed, acts.pos]
    for layer, block in enumerate(model.blocks):
        parts += block.attn.write_heads(acts.z[layer]).unbind(-2)
        if block.has_mlp:
            parts.append(acts.post[layer] @ block.mlp.W_out)
    return torch.stack(parts)
