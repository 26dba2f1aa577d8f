"""The parts of a `Transformer`: normalisation, attention, MLP, block. Names and shapes are TransformerLens's.

The forward pass is written here and nowhere else. Whatever runs a part of it (`interventions`, `patching`) calls the
same methods at some of the positions:

* Norms, `project`, `write`, `MLP` and `Block.add_mlp` act on each row by itself: on any rows, in any order.
* `attend` and `pattern` mix rows. They take keys and values at all positions, queries at any, and where both stand.

So a kind of positions, attention or MLP is a setting of `ModelConfig` and a few lines here.

A hook point costs nothing until something hooks it: what only a hook would see (scores, patterns, per-head results,
the inputs forked to q, k and v) is computed only then.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor  # type: ignore[reportMissingImports]
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig
from mechinterp.models.positions import Positions, broadcast

EPS = 1e-5
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}
WEIGHTINGS = {
    "softmax": (float("-inf"), lambda scores: scores.softmax(-1)),
    "linear": (0.0, lambda scores: scores),
}
"""Per kind of attention: the score of a key that the query must not see, and what turns scores into weights."""


def hooked(*points: HookPoint) -> bool:
    """Whether anything reads or edits one of these hook points."""
    return any(p._forward_hooks or p._backward_hooks or p._forward_pre_hooks for p in points)


class Norm(nn.Module):
    """Layer or RMS normalisation over the last axis, with hooks on its scale and its output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.normalization
        self.w = nn.Parameter(torch.ones(config.d_model))
        if self.kind == "LN":
            self.b = nn.Parameter(torch.zeros(config.d_model))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        if not hooked(self.hook_scale, self.hook_normalized):
            return self.plain(x)
        if self.kind == "LN":
            x = x - x.mean(-1, keepdim=True)
        x = x / self.hook_scale((x.square().mean(-1, keepdim=True) + EPS).sqrt())
        # As in TransformerLens: a layer norm's hook sees the output, an RMS norm's what comes before the weight.
        return self.hook_normalized(x * self.w + self.b) if self.kind == "LN" else self.hook_normalized(x) * self.w

    def plain(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The same without hooks, fused."""
        if self.kind == "LN":
            return F.layer_norm(x, self.w.shape, self.w, self.b, EPS)
        return F.rms_norm(x, self.w.shape, self.w, EPS)


def make_norm(config: ModelConfig) -> nn.Module:
    """A `Norm`, or nothing where the model has none."""
    return nn.Identity() if config.normalization == "none" else Norm(config)


class Attention(nn.Module):
    """Multi-head attention; softmax or linear, causal or not."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.empty(heads, d_model, d_head)) for _ in range(3))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        if config.attn_bias:
            self.b_Q, self.b_K, self.b_V = (nn.Parameter(torch.zeros(heads, d_head)) for _ in range(3))
            self.b_O = nn.Parameter(torch.zeros(d_model))
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
        return self.b_O if self.config.attn_bias else None

    def project(
        self, kinds: str, x: Float[Tensor, "... row d_model"], where: Positions
    ) -> tuple[Float[Tensor, "... row head d_head"], ...]:
        """Queries, keys or values of all heads, in one fused product.

        Args:
            kinds: Some of the letters `qkv`; the result has one tensor for each.
            x: The normalised stream.
            where: The rows' positions.
        """
        weight = torch.cat([self._weight(kind) for kind in kinds]).transpose(0, 1).flatten(1)
        bias = torch.cat([self._bias(kind) for kind in kinds]).flatten() if self.config.attn_bias else None
        product = F.linear(x, weight.T, bias).unflatten(-1, (len(kinds), self.config.n_heads, self.config.d_head))
        return tuple(self._placed(*each, where) for each in zip(kinds, product.unbind(-3), strict=True))

    def project_heads(
        self, kind: str, x: Float[Tensor, "... row head d_model"], where: Positions
    ) -> Float[Tensor, "... row head d_head"]:
        """Queries, keys or values where each head reads an input of its own."""
        product = torch.einsum("...hm,hmd->...hd", x, self._weight(kind))
        return self._placed(kind, product + self._bias(kind) if self.config.attn_bias else product, where)

    def attend(
        self,
        q: Float[Tensor, "*query_lead query head d_head"],
        k: Float[Tensor, "*key_lead key head d_head"],
        v: Float[Tensor, "*value_lead key head d_head"],
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
        q, k = self._rotated(q, k, queries, keys)
        q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
        lead = q.shape[:-2]
        flat = len(lead) > 2 or k.ndim != q.ndim or v.ndim != q.ndim
        if flat:
            # The fused kernels take one batch axis.
            lead = broadcast(broadcast(lead, k.shape[:-2]), v.shape[:-2])
            q, k, v = (part.expand(*lead, *part.shape[-2:]).flatten(0, -4) for part in (q, k, v))
        if queries is keys:
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
        k: Float[Tensor, "*key_lead key head d_head"],
        queries: Positions,
        keys: Positions,
    ) -> Float[Tensor, "*lead head query key"]:
        """Attention weights; softmax rows sum to 1, others need not."""
        q, k = self._rotated(q, k, queries, keys)
        unseen, weighting = WEIGHTINGS[self.config.attention]
        scores = q.transpose(-2, -3) @ k.transpose(-2, -3).transpose(-1, -2) * self.scale
        visible = self.visible(queries, keys)
        if visible is not None:
            scores = scores.masked_fill(~visible, unseen)
        return self.hook_pattern(weighting(self.hook_attn_scores(scores)))

    def mix(
        self, pattern: Float[Tensor, "*pattern_lead head query key"], v: Float[Tensor, "*value_lead key head d_head"]
    ) -> Float[Tensor, "*lead query head d_head"]:
        """`z`, given attention weights."""
        return self.hook_z((pattern @ v.transpose(-2, -3)).transpose(-2, -3))

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

    def visible(self, queries: Positions, keys: Positions) -> Bool[Tensor, "... query key"] | None:
        """Which keys a query sees: `[query key]`, or with each example's own queries `[... batch 1 query key]`."""
        if not self.config.causal:
            return None
        mask = keys.index[..., None, :] <= queries.index[..., :, None]
        return mask if mask.ndim == 2 else mask.unsqueeze(-3)

    def rotate(self, x: Float[Tensor, "... row head d_head"], where: Positions) -> Float[Tensor, "... row head d_head"]:
        """Rotary positions, on adjacent pairs of features."""
        cos, sin = (where.table(table).unsqueeze(-2).to(x.dtype) for table in (self.cos, self.sin))
        turned = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
        return x * cos + turned * sin

    def _rotated(self, q: Tensor, k: Tensor, queries: Positions, keys: Positions) -> tuple[Tensor, Tensor]:
        if self.config.positions != "rotary":
            return q, k
        return self.hook_rot_q(self.rotate(q, queries)), self.hook_rot_k(self.rotate(k, keys))

    def _placed(self, kind: str, product: Tensor, where: Positions) -> Tensor:
        """With what shortformer positions add, through the kind's hook."""
        if where.added is not None and kind != "v":
            product = product + torch.einsum("...sm,hmd->...shd", where.added, self._weight(kind))
        return getattr(self, f"hook_{kind}")(product)

    def _weight(self, kind: str) -> Float[Tensor, "head d_model d_head"]:
        return getattr(self, f"W_{kind.upper()}")

    def _bias(self, kind: str) -> Float[Tensor, "head d_head"]:
        return getattr(self, f"b_{kind.upper()}")


def rotary_tables(config: ModelConfig) -> tuple[Float[Tensor, "seq d_head"], Float[Tensor, "seq d_head"]]:
    """Cosines and sines of position x frequency, in float64, each frequency for two adjacent features."""
    steps = torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head
    angles = torch.outer(torch.arange(config.n_ctx, dtype=torch.float64), config.rotary_base**-steps)
    angles = angles.repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp))
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model))
        self.act = ACTIVATIONS[config.act_fn]
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    @property
    def bias(self) -> Float[Tensor, " d_model"]:
        """What it writes whatever its neurons do."""
        return self.b_out

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return F.linear(self.neurons(x), self.W_out.T, self.b_out)

    def neurons(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
        """Neurons after the activation."""
        return self.hook_post(self.act(self.hook_pre(F.linear(x, self.W_in.T, self.b_in))))


class Block(nn.Module):
    """One layer: attention, then an MLP where the model has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.n_heads
        self.ln1 = make_norm(config)
        self.attn = Attention(config)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.has_mlp = config.d_mlp > 0
        if self.has_mlp:
            self.ln2, self.mlp = make_norm(config), MLP(config)
            self.hook_resid_mid, self.hook_mlp_in, self.hook_mlp_out = HookPoint(), HookPoint(), HookPoint()

    def forward(self, resid: Float[Tensor, "... seq d_model"], where: Positions) -> Float[Tensor, "... seq d_model"]:
        resid = self.hook_resid_pre(resid)
        z = self.attn.attend(*self.project(resid, where), where, where)
        mid = resid + self.hook_attn_out(self.attn.write(z))
        if self.has_mlp:
            mid = self.hook_resid_mid(mid)
            mid = self.add_mlp(mid, self.mlp_reads(resid, mid))
        return self.hook_resid_post(mid)

    def project(self, resid: Float[Tensor, "... row d_model"], where: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, `[... row head d_head]`; those whose input is hooked read a fork of the stream per head."""
        points = {"q": self.hook_q_input, "k": self.hook_k_input, "v": self.hook_v_input}
        forks = [kind for kind, point in points.items() if hooked(point)]
        projected = {}
        for kind in forks:
            # Copies in memory too, so that a hook can edit one head's in place.
            copies = repeat(resid, "... d_model -> ... head d_model", head=self.heads).clone()
            projected[kind] = self.attn.project_heads(kind, self.ln1(points[kind](copies)), where)
        shared = "".join(kind for kind in points if kind not in forks)
        # The shared stream is normalised last, so that a cache of ln1's hooks keeps its usual shape.
        if shared or (isinstance(self.ln1, Norm) and hooked(self.ln1.hook_scale, self.ln1.hook_normalized)):
            x = self.ln1(resid)
            if shared:
                projected |= zip(shared, self.attn.project(shared, x, where), strict=True)
        return projected["q"], projected["k"], projected["v"]

    def mlp_reads(self, pre: Float[Tensor, "... d_model"], mid: Float[Tensor, "... d_model"]) -> Tensor:
        """The stream that the MLP reads, of the streams before the layer and after its attention."""
        return mid

    def add_mlp(
        self, mid: Float[Tensor, "... d_model"], read: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """The stream after the MLP, from the one before it and what the MLP reads."""
        # A copy, so that a hook can edit what the MLP reads in place and leave the stream alone.
        read = self.hook_mlp_in(read.clone() if hooked(self.hook_mlp_in) else read)
        return mid + self.hook_mlp_out(self.mlp(self.ln2(read)))
