"""What an ablated source carries instead of its own value."""

from __future__ import annotations

import torch
from torch import Tensor

from mechinterp.core import ConfigError, suggest

ABLATIONS = ("resample", "mean", "mean-pos", "zero")
DIRECTIONS = ("denoise", "noise")
Ablation = str
"""One of `ABLATIONS`; `check_ablation` says so in one line."""
Direction = str
"""One of `DIRECTIONS`."""


def ablated(corrupted: Tensor, ablation: Ablation, batch_dim: int = 0) -> Tensor:
    """The replacement for a value, from the corrupted run.

    Args:
        corrupted: The corrupted run's value; the axis after `batch_dim` is the sequence.
        ablation: `resample` takes it as it is; `mean` averages over examples, `mean-pos` over examples and
            positions, `zero` is zero.
        batch_dim: Which axis is the batch.

    Returns:
        A tensor of the same shape.
    """
    if ablation == "resample":
        return corrupted
    if ablation == "zero":
        return torch.zeros_like(corrupted)
    dims = [batch_dim] if ablation == "mean" else [batch_dim, batch_dim + 1]
    return corrupted.mean(dims, keepdim=True).expand_as(corrupted)


def check_ablation(ablation: str, direction: str = "noise") -> None:
    """Refuse what has no meaning.

    Raises:
        ConfigError: If a name is unknown, or a clean value would be put into a run that is not the corrupted one.
    """
    if ablation not in ABLATIONS:
        raise ConfigError(f"no ablation '{ablation}'.{suggest(ablation, ABLATIONS)}")
    if direction not in DIRECTIONS:
        raise ConfigError(f"no direction '{direction}'.{suggest(direction, DIRECTIONS)}")
    if direction == "denoise" and ablation != "resample":
        raise ConfigError(
            f"direction='denoise' puts clean values into the corrupted run, so it takes ablation='resample', "
            f"not '{ablation}'; use direction='noise'"
        )
