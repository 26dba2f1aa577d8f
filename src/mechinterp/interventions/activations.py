"""One run of a `Transformer`, with everything that later runs can start again from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Graph
from mechinterp.models import Transformer


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
        shift: What shortformer adds to q and k, `[seq, d_model]`, or None.
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
    shift: Tensor | None

    @property
    def final(self) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream before the final norm."""
        return self.resid_pre[-1]


@torch.no_grad()
def activations(model: Transformer, inputs: Tensor) -> Activations:
    """Run a model once and keep all of it (no hooks involved).

    Args:
        model: A `Transformer` without hooks.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
    """
    resid, shift = model.embedded(inputs)
    embed = model.embed.W_E[inputs] if model.config.inputs == "tokens" else inputs @ model.embed.W_E
    learned = model.config.positions == "learned"
    pos = model.pos_embed.W_pos[: resid.shape[-2]].expand_as(resid) if learned else None
    kept: dict[str, list[Tensor]] = {name: [] for name in ("resid_pre", "resid_mid", "q", "k", "v", "z", "post")}
    for block in model.blocks:
        kept["resid_pre"].append(resid)
        q, k, v = block.attn.project(block.ln1(resid), {}, shift)  # type: ignore[operator,union-attr]
        z = block.attn.mix(q, k, v)  # type: ignore[operator,union-attr]
        resid = resid + attention_out(block, z)
        for name, value in zip("qkvz", (q, k, v, z), strict=True):
            kept[name].append(value)
        kept["resid_mid"].append(resid)
        if block.has_mlp:
            post = neurons(block, resid)
            kept["post"].append(post)
            resid = resid + mlp_out(block, post)
    kept["resid_pre"].append(resid)
    return Activations(**{name: tuple(values) for name, values in kept.items()}, embed=embed, pos=pos, shift=shift)


def attention_out(block, z: Float[Tensor, "... head d_head"]) -> Float[Tensor, "... d_model"]:
    """What a layer's attention writes, bias included."""
    bias = block.attn.b_O if block.attn.config.attn_bias else None
    return F.linear(z.flatten(-2), block.attn.W_O.flatten(0, 1).T, bias)


def neurons(block, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
    """A layer's MLP neurons after the activation."""
    mlp = block.mlp
    return mlp.act(F.linear(block.ln2(resid), mlp.W_in.T, mlp.b_in))


def mlp_out(block, post: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
    """What a layer's MLP writes, bias included."""
    return F.linear(post, block.mlp.W_out.T, block.mlp.b_out)


def source_values(model: Transformer, acts: Activations, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """What each source of the graph writes to the residual stream, without biases: those belong to nobody."""
    parts: list[Tensor] = [acts.resid_pre[0]]
    if graph.inputs == "split":
        parts = [acts.embed] if acts.pos is None else [acts.embed, acts.pos]
    for layer, block in enumerate(model.blocks):
        parts += torch.einsum("bshd,hdm->hbsm", acts.z[layer], block.attn.W_O).unbind(0)
        if block.has_mlp:
            parts.append(acts.post[layer] @ block.mlp.W_out)
    return torch.stack(parts)
