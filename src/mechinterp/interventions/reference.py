"""What an ablated source carries instead of its own value."""

from __future__ import annotations

import torch
from torch import Tensor


def ablated(corrupted: Tensor, ablation: str, batch_dim: int = 0) -> Tensor:
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
