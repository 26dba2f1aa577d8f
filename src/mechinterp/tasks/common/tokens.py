"""What several tasks do to sequences of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def previous_token(tokens: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """At each position the token before it; -1 at the first."""
    return torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)


def exchange(
    tokens: Int[Tensor, "batch seq"], here: Int[Tensor, "batch 1"], there: Int[Tensor, "batch 1"]
) -> Int[Tensor, "batch seq"]:
    """The sequences with the tokens at two positions exchanged."""
    return tokens.scatter(1, here, tokens.gather(1, there)).scatter(1, there, tokens.gather(1, here))
