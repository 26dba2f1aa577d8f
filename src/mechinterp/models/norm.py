"""Normalisation: of the residual stream before whatever reads it, of queries and keys, of neurons. Row by row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig
from mechinterp.models.hook_points import hooked


class Norm(nn.Module):
    """Layer or RMS normalisation over the last axis, with hooks on its scale and its output.

    Args:
        kind: `LN` or `RMS`.
        width: Of the last axis.
        eps: Added to the variance.
    """

    def __init__(self, kind: str, width: int, eps: float) -> None:
        super().__init__()
        self.kind, self.eps = kind, eps
        self.w = nn.Parameter(torch.ones(width))
        if kind == "LN":
            self.b = nn.Parameter(torch.zeros(width))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        if not hooked(self.hook_scale, self.hook_normalized):
            return self.plain(x)
        if self.kind == "LN":
            x = x - x.mean(-1, keepdim=True)
        x = x / self.hook_scale((x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        # As in TransformerLens: a layer norm's hook sees the output, an RMS norm's what comes before the weight.
        return self.hook_normalized(x * self.w + self.b) if self.kind == "LN" else self.hook_normalized(x) * self.w

    def plain(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The same without hooks, fused."""
        if self.kind == "LN":
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        return F.rms_norm(x, self.w.shape, self.w, self.eps)

    def derivative(self, x: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor]:
        """Scale `s` and direction `h` of the derivative at x, which is `d -> w * s * (C d - h * mean(h * C d))`.

        C takes the mean away (LN) or nothing (RMS); s is `[..., 1]`, h is the normalised x before the weight.
        """
        x = self.centred(x)
        scale = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return scale, x * scale

    def centred(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Without its mean, if the norm takes it away."""
        return x - x.mean(-1, keepdim=True) if self.kind == "LN" else x

    @property
    def offset(self) -> Float[Tensor, " width"]:
        """What the norm adds whatever it reads."""
        return self.b if self.kind == "LN" else torch.zeros_like(self.w)


def make_norm(config: ModelConfig) -> nn.Module:
    """A `Norm` of the stream, or nothing where the model has none."""
    if config.normalization == "none":
        return nn.Identity()
    return Norm(config.normalization, config.d_model, config.norm_eps)
