"""Attention: project, attend, write. Names and shapes are TransformerLens's.

* `project`, `project_heads`, `write` and `write_heads` act on each row by itself: on any rows, in any order.
* `attend` and `pattern` mix rows. They take keys and values at all positions, queries at any, and where both stand.

Several heads may share one key and one value (grouped queries): k and v then have an entry for each group, which comes
to each of its heads within `attend`. So do norms of q and k, smeared keys and rotary positions.

What runs a part of the model calls these methods and never reads the weights; so a kind of attention or of positions
is a setting of `ModelConfig` and a few lines here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor  # type: ignore[reportMissingImports]
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig
from mechinterp.models.hook_points import hooked
from mechinterp.models.norm import Norm
from mechinterp.models.positions import Positions, broadcast
from mechinterp.models.rotary import rotary_tables, turn

WEIGHTINGS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "softmax": (-math.inf, lambda scores: scores.softmax(-1)),
    "linear": (0.0, lambda scores: scores),
    "relu": (0.0, torch.relu),
    "uniform": (-math.inf, lambda scores: scores.masked_fill(scores > -math.inf, 0.0).softmax(-1)),
}
"""Per kind of attention: the score of a key that the query must not see, and what turns scores into weights."""


class Attention(nn.Module):
    """Multi-head attention, causal or not."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, kv_heads, d_model, d_head = config.n_heads, config.kv_heads, config.d_model, config.d_head
        many = (heads, kv_heads, kv_heads)
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.empty(each, d_model, d_head)) for each in many)
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        if config.attn_bias:
            self.b_Q, self.b_K, self.b_V = (nn.Parameter(torch.zeros(each, d_head)) for each in many)
        if config.out_bias:
            self.b_O = nn.Parameter(torch.zeros(d_model))
        if config.qk_norm:
            self.q_norm, self.k_norm = (Norm("RMS", d_head, config.norm_eps) for _ in range(2))
        if config.smeared_keys:
            self.smear = nn.Parameter(torch.zeros(kv_heads))
        self.scale = config.attn_scale / math.sqrt(d_head)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = (HookPoint() for _ in range(4))
        self.hook_attn_scores, self.hook_pattern, self.hook_result = (HookPoint() for _ in range(3))
        if config.positions == "rotary":
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
            cos, sin = rotary_tables(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @property
    def bias(self) -> Float[Tensor, " d_model"] | None:
        """What the layer writes whatever its heads do."""
        return self.b_O if self.config.out_bias else None

    def many(self, kind: str) -> int:
        """How many queries, keys or values a position has."""
        return self.config.n_heads if kind == "q" else self.config.kv_heads

    def project(
        self, kinds: str, x: Float[Tensor, "... row d_model"], where: Positions
    ) -> tuple[Float[Tensor, "... row _ d_head"], ...]:
        """Queries, keys or values of all heads, in one fused product.

        Args:
            kinds: Some of the letters `qkv`; the result has one tensor for each.
            x: The normalised stream.
            where: The rows' positions.
        """
        weight = torch.cat([self._weight(kind) for kind in kinds]).transpose(0, 1).flatten(1)
        bias = torch.cat([self._bias(kind) for kind in kinds]).flatten() if self.config.attn_bias else None
        product = F.linear(x, weight.T, bias).unflatten(-1, (-1, self.config.d_head))
        parts = product.split([self.many(kind) for kind in kinds], -2)
        return tuple(self._placed(*each, where) for each in zip(kinds, parts, strict=True))

    def project_heads(
        self, kind: str, x: Float[Tensor, "... row head d_model"], where: Positions
    ) -> Float[Tensor, "... row head d_head"]:
        """Queries, keys or values where each of them reads an input of its own."""
        product = torch.einsum("...hm,hmd->...hd", x, self._weight(kind))
        return self._placed(kind, product + self._bias(kind) if self.config.attn_bias else product, where)

    def pull(
        self, kinds: str, grads: Float[Tensor, "batch row all_forks d_head"]
    ) -> Float[Tensor, "all_forks batch row d_model"]:
        """Gradients at what queries, keys and values read, from those at themselves; kinds stand side by side."""
        weight = torch.cat([self._weight(kind) for kind in kinds])
        return torch.einsum("bsfd,fmd->fbsm", grads, weight)

    def attend(
        self,
        q: Float[Tensor, "*query_lead query head d_head"],
        k: Float[Tensor, "*key_lead key kv_head d_head"],
        v: Float[Tensor, "*value_lead key kv_head d_head"],
        queries: Positions,
        keys: Positions,
    ) -> Float[Tensor, "*lead query head d_head"]:
        """Attention-weighted values `z`; leading axes of q, k and v broadcast.

        Args:
            q: Queries, at any positions.
            k: Keys, at all positions.
            v: Values, at all positions.
            queries: Where queries stand.
            keys: Where keys and values stand.
        """
        explicit = self.config.attention != "softmax" or hooked(self.hook_attn_scores, self.hook_pattern)
        # SDPA has no batching rule on CPU: under vmap it would fall back to a loop, with a warning.
        if explicit or is_batchedtensor(q) or is_batchedtensor(k):
            return self.mix(self.pattern(q, k, queries, keys), v)
        q, k, v = self._matched(q, k, queries, keys, v)
        lead = q.shape[:-2]
        flat = len(lead) > 2 or k.ndim != q.ndim or v.ndim != q.ndim
        if flat:
            # The fused kernels take one batch axis.
            lead = broadcast(broadcast(lead, k.shape[:-2]), v.shape[:-2])
            q, k, v = (part.expand(*lead, *part.shape[-2:]).flatten(0, -4) for part in (q, k, v))
        if queries is keys and keys.unseen is None:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=self.config.causal, scale=self.scale)
        else:
            mask = self.visible(queries, keys)
            if mask is not None and mask.ndim > 2:
                mask = mask.expand(*lead[:-1], *mask.shape[-3:]).flatten(0, -4)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.hook_z((z.unflatten(0, lead[:-1]) if flat else z).transpose(-2, -3))

    def pattern(
        self,
        q: Float[Tensor, "*query_lead query head d_head"],
        k: Float[Tensor, "*key_lead key kv_head d_head"],
        queries: Positions,
        keys: Positions,
    ) -> Float[Tensor, "*lead head query key"]:
        """Attention weights; softmax rows sum to 1, others need not."""
        q, k = self._matched(q, k, queries, keys)
        unseen, weighting = WEIGHTINGS[self.config.attention]
        scores = q @ k.transpose(-1, -2) * self.scale
        visible = self.visible(queries, keys)
        if visible is not None:
            scores = scores.masked_fill(~visible, unseen)
        return self.hook_pattern(weighting(self.hook_attn_scores(scores)))

    def mix(
        self, pattern: Float[Tensor, "*pattern_lead head query key"], v: Float[Tensor, "*value_lead key kv_head d_head"]
    ) -> Float[Tensor, "*lead query head d_head"]:
        """`z`, given attention weights."""
        return self.hook_z((pattern @ self.spread(v.transpose(-2, -3), -3)).transpose(-2, -3))

    def spread(self, values: Tensor, axis: int) -> Tensor:
        """Something of each key or value, for each of the heads that share it."""
        return values if self.config.shared == 1 else values.repeat_interleave(self.config.shared, axis)

    def write(self, z: Float[Tensor, "... head d_head"]) -> Float[Tensor, "... d_model"]:
        """What the layer's attention adds to the stream, bias included."""
        if hooked(self.hook_result):
            out = self.hook_result(self.write_heads(z)).sum(-2)
            return out if self.bias is None else out + self.bias
        return F.linear(z.flatten(-2), self.W_O.flatten(0, 1).T, self.bias)

    def write_heads(
        self, z: Float[Tensor, "... all_heads d_head"], heads: slice = slice(None)
    ) -> Float[Tensor, "... head d_model"]:
        """What each head (or some of them) adds to the stream, without the bias."""
        return torch.einsum("...hd,hdm->...hm", z[..., heads, :], self.W_O[heads])

    def write_forks(
        self, kind: str, z: Float[Tensor, "... all_heads d_head"], forks: slice
    ) -> Float[Tensor, "... fork d_model"]:
        """What a change of z adds to the stream, by the queries, keys or values that caused it; without the bias.

        Args:
            kind: `q`, `k` or `v`. What one of them causes is what the heads that attend with it write.
            z: The change, where all of them change at once.
            forks: Which of them.
        """
        if kind == "q" or self.config.shared == 1:
            return self.write_heads(z, forks)
        z, weight = (value.unflatten(axis, (-1, self.config.shared)) for value, axis in ((z, -2), (self.W_O, 0)))
        return torch.einsum("...ghd,ghdm->...gm", z[..., forks, :, :], weight[forks])

    def write_edges(
        self,
        kind: str,
        z: Float[Tensor, "change batch row all_heads d_head"],
        change: Int[Tensor, " edge"],
        fork: Int[Tensor, " edge"],
    ) -> Float[Tensor, "edge batch row d_model"]:
        """`write_forks` for one of the changes and one of the queries, keys or values an edge."""
        if kind == "q" or self.config.shared == 1:
            return torch.einsum("ebsd,edm->ebsm", z[change, :, :, fork], self.W_O[fork])
        z, weight = (value.unflatten(axis, (-1, self.config.shared)) for value, axis in ((z, -2), (self.W_O, 0)))
        return torch.einsum("ebshd,ehdm->ebsm", z[change, :, :, fork], weight[fork])

    def visible(self, queries: Positions, keys: Positions) -> Bool[Tensor, "... query key"] | None:
        """Which keys a query sees: `[query key]`; `[... batch 1 query key]` with own queries or padding.

        In a causal model a padded position sees itself, so that no row of weights is empty where padding comes first.
        """
        distance = queries.index[..., :, None] - keys.index[..., None, :]
        mask = distance >= 0 if self.config.causal else None
        if mask is not None and mask.ndim > 2:
            mask = mask.unsqueeze(-3)
        if keys.unseen is None:
            return mask
        seen = ~keys.unseen[..., None, None, :]
        if mask is None:
            return seen.expand(*seen.shape[:-2], *distance.shape[-2:])
        itself = distance == 0
        return mask & (seen | (itself if itself.ndim == 2 else itself.unsqueeze(-3)))

    def rotate(self, x: Float[Tensor, "... row head d_head"], where: Positions) -> Float[Tensor, "... row head d_head"]:
        """Rotary positions, on adjacent pairs of features."""
        return turn(x, *(where.table(table).unsqueeze(-2).to(x.dtype) for table in (self.cos, self.sin)))

    def _matched(
        self, q: Tensor, k: Tensor, queries: Positions, keys: Positions, *values: Tensor
    ) -> tuple[Tensor, ...]:
        """Queries and keys as they meet in a product, and values: `[... head row d_head]`, one for each head."""
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.config.smeared_keys:
            k = self._smeared(k)
        if self.config.positions == "rotary":
            q, k = self.hook_rot_q(self.rotate(q, queries)), self.hook_rot_k(self.rotate(k, keys))
        q, *shared = (part.transpose(-2, -3) for part in (q, k, *values))
        return q, *(self.spread(part, -3) for part in shared)

    def _smeared(self, k: Float[Tensor, "... key kv_head d_head"]) -> Float[Tensor, "... key kv_head d_head"]:
        """Each key mixed with the one before; the first stays. Source: Olsson et al. 2022, architecture section."""
        before = torch.cat([k[..., :1, :, :], k[..., :-1, :, :]], -3)
        return before + self.smear.sigmoid()[:, None] * (k - before)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Attention:
        """Rotary tables are made again in the weights' type: those of a double model are not rounded on the way."""
        super()._apply(fn, recurse)
        if self.config.positions == "rotary":
            self.cos, self.sin = (table.to(self.W_O) for table in rotary_tables(self.config))
        return self

    def _placed(self, kind: str, product: Tensor, where: Positions) -> Tensor:
        """With what shortformer positions add, through the kind's hook."""
        if where.added is not None and kind != "v":
            product = product + torch.einsum("...sm,hmd->...shd", where.added, self._weight(kind))
        return getattr(self, f"hook_{kind}")(product)

    def _weight(self, kind: str) -> Float[Tensor, "head d_model d_head"]:
        return getattr(self, f"W_{kind.upper()}")

    def _bias(self, kind: str) -> Float[Tensor, "head d_head"]:
        return getattr(self, f"b_{kind.upper()}")
