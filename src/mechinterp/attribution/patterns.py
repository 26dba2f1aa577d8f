"""Scores of attention patterns, and what uniform attention gets: plain functions on tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.core import ShapeError

Pattern = Float[Tensor, "batch *head query key"]
Score = Float[Tensor, "batch *head"]
Tokens = Int[Tensor, "batch seq"]


def previous_token_score(pattern: Pattern) -> Score:
    """Mean attention paid to the position just before, over all positions that have one.

    Args:
        pattern: Attention weights, with or without a head axis; rows (queries) sum to 1 under softmax.

    Returns:
        One value per example (and head), in [0, 1] under softmax; NaN for sequences of one position.

    Raises:
        ShapeError: If `pattern` is not square in its last two axes.

    >>> round(float(previous_token_score(torch.tensor([[[1.0, 0.0], [0.75, 0.25]]]))), 2)
    0.75
    """
    size = _square(pattern)
    target = torch.ones(size, size, dtype=torch.bool, device=pattern.device).triu(-1).tril(-1)
    return _mean_over_queries(pattern, target.expand(pattern.shape[0], -1, -1))


def induction_score(pattern: Pattern, tokens: Tokens) -> Score:
    """Mean attention paid to tokens that followed an earlier copy of the current token.

    Args:
        pattern: Attention weights, with or without a head axis; rows (queries) sum to 1 under softmax.
        tokens: The input. Positions with no earlier copy are left out of the mean.

    Returns:
        One value per example (and head), in [0, 1] under softmax; NaN where a sequence has no repeated token.

    Raises:
        ShapeError: If `pattern` is not square in its last two axes or does not fit `tokens`.

    Source: Olsson et al. 2022, "prefix matching score". Differs: every repeat counts, not only the second block.
    With several earlier copies, attention to any of their successors counts. In `A A` the second A is itself what
    followed the first, so there its attention to itself counts: a key that holds "my previous token is A" sits there
    too, and an exact induction head does attend to it.

    >>> pattern = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.7, 0.2]]])
    >>> round(float(induction_score(pattern, torch.tensor([[4, 9, 4]]))), 2)
    0.7
    """
    _fits(pattern, tokens)
    return _mean_over_queries(pattern, successors_of_copies(tokens))


def duplicate_token_score(pattern: Pattern, tokens: Tokens) -> Score:
    """Mean attention paid to earlier copies of the current token.

    Args:
        pattern: Attention weights, with or without a head axis; rows (queries) sum to 1 under softmax.
        tokens: The input. Positions with no earlier copy are left out of the mean.

    Returns:
        One value per example (and head), in [0, 1] under softmax; NaN where a sequence has no repeated token.

    Raises:
        ShapeError: If `pattern` is not square in its last two axes or does not fit `tokens`.

    Source: Wang et al. 2022, duplicate token heads. The current position itself does not count.
    """
    _fits(pattern, tokens)
    return _mean_over_queries(pattern, earlier_copies(tokens))


def earlier_copies(tokens: Tokens) -> Bool[Tensor, "batch seq seq"]:
    """`[b, q, j]`: whether j < q holds the same token as q."""
    same = tokens[:, :, None] == tokens[:, None, :]
    return same.tril(-1)


def successors_of_copies(tokens: Tokens) -> Bool[Tensor, "batch seq seq"]:
    """`[b, q, j]`: whether the token at j <= q followed an earlier copy (at j - 1 < q) of the token at q."""
    return earlier_copies(tokens).roll(1, -1)  # the last column of a strict lower triangle is empty: nothing wraps


def uniform_pattern(seq: int, causal: bool = True) -> Float[Tensor, "seq seq"]:
    """Attention that is spread evenly over all that a position may see."""
    visible = torch.ones(seq, seq, dtype=torch.float64)
    visible = visible.tril() if causal else visible
    return visible / visible.sum(-1, keepdim=True)


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "previous_token": lambda pattern, tokens: previous_token_score(pattern),
    "induction": induction_score,
    "duplicate_token": duplicate_token_score,
}


def _mean_over_queries(pattern: Tensor, target: Bool[Tensor, "batch query key"]) -> Tensor:
    """Attention to the target keys, averaged over the queries that have any; NaN where none has."""
    heads = pattern.ndim - 3
    target = target.reshape(target.shape[0], *[1] * heads, *target.shape[1:])
    paid = torch.where(target, pattern, torch.zeros_like(pattern)).sum((-1, -2))
    return paid / target.any(-1).sum(-1)


def _square(pattern: Tensor) -> int:
    if pattern.ndim < 3 or pattern.shape[-1] != pattern.shape[-2]:
        raise ShapeError(f"a pattern is [batch, (head,) seq, seq], got {list(pattern.shape)}")
    return pattern.shape[-1]


def _fits(pattern: Tensor, tokens: Tensor) -> None:
    if tokens.shape != (pattern.shape[0], _square(pattern)):
        raise ShapeError(f"pattern {list(pattern.shape)} does not fit tokens {list(tokens.shape)} [batch, seq]")
