"""The parts of a `Transformer`: normalisation, attention, MLP, block. Names and shapes are TransformerLens's.

A hook point costs nothing until something hooks it: what only a hook would see (scores, patterns, per-head results,
the inputs forked to q, k and v) is computed only then.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor  # type: ignore[reportMissingImports]
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig

EPS = 1e-5
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


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


class Embed(nn.Module):
    """Embedding `W_E` of tokens or vectors, `[d_vocab or d_in, d_model]`; the identity if it is fixed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        trained = config.embedding == "learned"
        self.W_E = nn.Parameter(torch.eye(config.features_in, config.d_model), requires_grad=trained)


class PosEmbed(nn.Module):
    """Learned positions `W_pos`, `[n_ctx, d_model]`; if they are fixed, one-hot in the dimensions after the inputs'."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        trained = config.embedding == "learned"
        start = torch.eye(config.n_ctx, config.d_model).roll(config.features_in, 1)
        self.W_pos = nn.Parameter(start, requires_grad=trained)


class Readout(nn.Module):
    """Hidden layers between the final norm and the unembedding: `W_in` `[layer, d_model, d_model]` and `b_in`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.readout_layers, config.d_model, config.d_model))
        self.b_in = nn.Parameter(torch.zeros(config.readout_layers, config.d_model))
        self.act = ACTIVATIONS[config.act_fn]

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        for weight, bias in zip(self.W_in, self.b_in, strict=True):
            x = self.act(F.linear(x, weight.T, bias))
        return x


class Unembed(nn.Module):
    """Unembedding `W_U`, `[d_model, d_vocab_out or d_out]`, and its bias where the model has one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(config.d_model, config.features_out))
        if config.unembed_bias:
            self.b_U = nn.Parameter(torch.zeros(config.features_out))


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

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"] | None,
        forks: dict[str, Float[Tensor, "... seq head d_model"]],
        shift: Float[Tensor, "seq d_model"] | None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Attention output.

        Args:
            x: The normalised stream, for those of q, k, v that `forks` does not give.
            forks: Normalised inputs per head, by `q`, `k`, `v`.
            shift: Shortformer positions, added to what q and k read.
        """
        q, k, v = self.project(x, forks, shift)
        z = self.hook_z(self.mix(self.hook_q(q), self.hook_k(k), self.hook_v(v)))
        if hooked(self.hook_result):
            out = self.hook_result(torch.einsum("...hd,hdm->...hm", z, self.W_O)).sum(-2)
        else:
            out = z.flatten(-2) @ self.W_O.flatten(0, 1)
        return out + self.b_O if self.config.attn_bias else out

    def project(
        self, x: Tensor | None, forks: dict[str, Tensor], shift: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, `[... seq head d_head]`: one fused product for all that read the shared stream."""
        weights = {"q": self.W_Q, "k": self.W_K, "v": self.W_V}
        biases = {"q": self.b_Q, "k": self.b_K, "v": self.b_V} if self.config.attn_bias else None
        made: dict[str, Tensor] = {}
        shared = [kind for kind in "qkv" if kind not in forks]
        if shared and x is not None:
            weight = torch.cat([weights[kind] for kind in shared]).transpose(0, 1).flatten(1)
            bias = None if biases is None else torch.cat([biases[kind] for kind in shared]).flatten()
            product = F.linear(x, weight.T, bias).unflatten(-1, (len(shared), self.config.n_heads, self.config.d_head))
            made = dict(zip(shared, product.unbind(-3), strict=True))
        for kind, fork in forks.items():
            made[kind] = torch.einsum("...hm,hmd->...hd", fork, weights[kind])
            if biases is not None:
                made[kind] = made[kind] + biases[kind]
        if shift is not None:
            for kind in "qk":
                made[kind] = made[kind] + torch.einsum("sm,hmd->shd", shift, weights[kind])
        return made["q"], made["k"], made["v"]

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "... seq head d_head"]:
        """Attention-weighted values `z`."""
        if self.config.positions == "rotary":
            q, k = self.hook_rot_q(self.rotate(q)), self.hook_rot_k(self.rotate(k))
        q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
        explicit = self.config.attention == "linear" or hooked(self.hook_attn_scores, self.hook_pattern)
        # SDPA has no batching rule on CPU: under vmap it would fall back to a loop, with a warning.
        if explicit or is_batchedtensor(q) or is_batchedtensor(k):
            return (self.hook_pattern(self.pattern(q, k)) @ v).transpose(-2, -3)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=self.config.causal, scale=self.scale)
        return z.transpose(-2, -3)

    def pattern(self, q: Float[Tensor, "... query d_head"], k: Float[Tensor, "... key d_head"]) -> Tensor:
        """Attention weights `[... query key]`; softmax rows sum to 1, linear ones need not."""
        scores = q @ k.transpose(-1, -2) * self.scale
        linear = self.config.attention == "linear"
        if self.config.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, 0.0 if linear else float("-inf"))
        scores = self.hook_attn_scores(scores)
        return scores if linear else scores.softmax(-1)

    def rotate(self, x: Float[Tensor, "... seq head d_head"], start: int = 0) -> Float[Tensor, "... seq head d_head"]:
        """Rotary positions on adjacent pairs of features; the first position is `start`."""
        stop = start + x.shape[-3]
        cos, sin = self.cos[start:stop, None].to(x.dtype), self.sin[start:stop, None].to(x.dtype)
        turned = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
        return x * cos + turned * sin


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

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.act(pre)), self.W_out.T, self.b_out)


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

    def forward(
        self, resid: Float[Tensor, "... seq d_model"], shift: Float[Tensor, "seq d_model"] | None = None
    ) -> Float[Tensor, "... seq d_model"]:
        resid = self.hook_resid_pre(resid)
        points = {"q": self.hook_q_input, "k": self.hook_k_input, "v": self.hook_v_input}
        forks = {}
        for kind, point in points.items():
            if hooked(point):
                copies = resid.unsqueeze(-2).expand(*resid.shape[:-1], self.heads, resid.shape[-1])
                # Copies in memory too, so that a hook can edit one head's in place.
                forks[kind] = self.ln1(point(copies.clone()))
        # The shared stream is normalised last, so that a cache of ln1's hooks keeps its usual shape.
        shared = len(forks) < 3 or (
            isinstance(self.ln1, Norm) and hooked(self.ln1.hook_scale, self.ln1.hook_normalized)
        )
        normalized = self.ln1(resid) if shared else None
        resid = resid + self.hook_attn_out(self.attn(normalized, forks, shift))
        if self.has_mlp:
            resid = self.hook_resid_mid(resid)
            # A copy, so that a hook can edit what the MLP reads in place and leave the stream alone.
            read = self.hook_mlp_in(resid.clone() if hooked(self.hook_mlp_in) else resid)
            resid = resid + self.hook_mlp_out(self.mlp(self.ln2(read)))
        return self.hook_resid_post(resid)
