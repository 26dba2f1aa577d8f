"""Where in the sequence a patch lies: every position, every role, or all positions at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mechinterp.core import OPTIONS, Batch, ConfigError, suggest


@dataclass(frozen=True, eq=False)
class Places:
    """Places to patch, one after the other.

    Args:
        dims: Name of the result's dimension: `["pos"]`, `["role"]` or `[]`.
        labels: Its coordinate.
        masks: Which positions belong to a place in each example, `[place, batch, seq]`.
    """

    dims: list[str]
    labels: np.ndarray
    masks: Bool[Tensor, "place batch seq"]

    @property
    def absent(self) -> Bool[Tensor, "place batch"]:
        """Examples that have no such place; their effect is NaN."""
        return ~self.masks.any(-1)


def places(batch: Batch, at: str) -> Places:
    """The places of a batch.

    Raises:
        ConfigError: If `at` is unknown, or the batch has no roles.
    """
    count, seq = len(batch), batch.seq_len
    if at == "pos":
        masks = torch.eye(seq, dtype=torch.bool, device=batch.device)[:, None].expand(seq, count, seq)
        return Places(["pos"], np.arange(seq), masks)
    if at == "all":
        return Places([], np.arange(1), torch.ones(1, count, seq, dtype=torch.bool, device=batch.device))
    if at != "role":
        raise ConfigError(f"at='{at}' is unknown.{suggest(at, OPTIONS['at'].words)}")
    if not batch.roles:
        raise ConfigError("at='role' needs a batch with roles; this one has none: use at='pos' or at='all'")
    positions = torch.stack([batch.roles[name] for name in batch.roles])
    masks = positions[..., None] == torch.arange(seq, device=batch.device)
    return Places(["role"], np.array(list(batch.roles)), masks)
