"""The floor of the training benchmark: a transformer by hand, without hook points.

Fused QKV, scaled_dot_product_attention, PyTorch's own layers, no hook points: what a step costs at least.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.models import ModelConfig


class Minimal(nn.Module):
    """Pre-norm decoder of the shape of a `ModelConfig`: tokens in, logits out; causal softmax attention, layer norms.

    Args:
        config: Positions `learned` or `rotary`; with or without MLPs and attention biases.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.features_in, config.d_model)
        self.pos = nn.Embedding(config.n_ctx, config.d_model) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(MinimalBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.unembed = nn.Linear(config.d_model, config.features_out, bias=False)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        x = self.embed(tokens)
        if self.pos is not None:
            x = x + self.pos.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))


class MinimalBlock(nn.Module):
    """One layer."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.n_heads * config.d_head
        self.heads, self.rotary = config.n_heads, config.positions == "rotary"
        self.norm1 = nn.LayerNorm(config.d_model)
        self.qkv = nn.Linear(config.d_model, 3 * width, bias=config.attn_bias)
        self.out = nn.Linear(width, config.d_model, bias=config.attn_bias)
        self.mlp = None
        if config.d_mlp:
            self.norm2 = nn.LayerNorm(config.d_model)
            act = {"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_new": nn.GELU("tanh")}[config.act_fn]
            self.mlp = nn.Sequential(
                nn.Linear(config.d_model, config.d_mlp), act, nn.Linear(config.d_mlp, config.d_model)
            )
        if self.rotary:
            frequency = config.rotary_base ** (-torch.arange(0, config.d_head, 2) / config.d_head)
            angle = torch.outer(torch.arange(config.n_ctx), frequency).repeat_interleave(2, -1)
            self.register_buffer("cos", angle.cos(), persistent=False)
            self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).flatten(-2))
        return x if self.mlp is None else x + self.mlp(self.norm2(x))

    def rotate(self, x: Float[Tensor, "batch head seq d_head"]) -> Float[Tensor, "batch head seq d_head"]:
        """Rotary positions on adjacent pairs of features."""
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * cos + turned * sin
