"""Rotary positions: which angle each pair of features turns by at each position, and the turning.

Adjacent features turn together: 2i with 2i + 1, at frequency i. Features after the first `rotary_dim` stay.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.models.config import ModelConfig


def rotary_tables(config: ModelConfig) -> tuple[Float[Tensor, "seq rotated"], Float[Tensor, "seq rotated"]]:
    """Cosines and sines of position x frequency, in float64, each frequency for two adjacent features."""
    angles = torch.outer(torch.arange(config.n_ctx, dtype=torch.float64), frequencies(config))
    angles = angles.repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


def frequencies(config: ModelConfig) -> Float[Tensor, " pair"]:
    """Angle per position of each pair of features.

    Source of the scalings: `linear` is Chen et al. 2023; `llama3` is that of Llama 3.1, which divides frequencies whose
    waves fit into the original context fewer than `rotary_low` times, leaves those above `rotary_high` times, and goes
    from one to the other in a straight line.
    """
    steps = torch.arange(0, config.rotated, 2, dtype=torch.float64) / config.rotated
    plain = config.rotary_base**-steps
    if config.rotary_scaling == "linear":
        return plain / config.rotary_factor
    if config.rotary_scaling == "llama3":
        waves = config.rotary_ctx * plain / (2 * math.pi)
        keep = ((waves - config.rotary_low) / (config.rotary_high - config.rotary_low)).clamp(0, 1)
        return plain * (keep + (1 - keep) / config.rotary_factor)
    return plain


def turn(
    x: Float[Tensor, "... d_head"], cos: Float[Tensor, "... rotated"], sin: Float[Tensor, "... rotated"]
) -> Float[Tensor, "... d_head"]:
    """Queries or keys, turned by their positions' angles."""
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([turn(x[..., :size], cos, sin), x[..., size:]], -1)
    turned = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    return x * cos + turned * sin
