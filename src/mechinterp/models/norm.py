"""Normalisation of the residual stream, before whatever reads it. It acts on each row by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig
from mechinterp.models.hook_points import hooked

EPS = 1e-5


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
