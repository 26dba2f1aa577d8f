"""Scores of heads by what they attend to, and what uniform attention gets. A new score is a function and an entry here.

The first half scores an attention pattern (plain functions on tensors), the second every head of a model on a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.core import Batch, HookedModel, ShapeError, Site, labelled
from mechinterp.interventions import on_model, record

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
    return pattern.diagonal(-1, -2, -1).sum(-1) / (size - 1)


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


def keys_at(offsets: Sequence[int], seq: int) -> Bool[Tensor, "seq seq"]:
    """`[q, j]`: whether j lies one of some numbers of positions before q."""
    place = torch.arange(seq)
    return torch.isin(place[:, None] - place, torch.tensor(list(offsets)))


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
"""Name -> function of patterns and inputs."""

_CHUNK = 64
"""Examples per forward pass: patterns of long sequences are large."""


def head_scores(model: HookedModel, batch: Batch) -> xr.DataArray:
    """Previous-token, induction and duplicate-token score of every head on every example.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points and `cfg`.
        batch: Which positions are scored plays no part: a mean is over all queries for which a score is defined.

    Returns:
        Dimensions score, layer, head, example. NaN where a score is undefined: for an example without repeated
        tokens, and for the last two scores of a model that reads vectors. Under linear attention, whose rows do not
        sum to 1, a score is not a share.

    See `head_score_chance` for what uniform attention gets.
    """
    layers = range(model.cfg.n_layers)
    parts = []
    for start in range(0, len(batch), _CHUNK):
        inputs = on_model(batch.inputs[start : start + _CHUNK], model)
        _, activations = record(model, inputs, [Site("pattern", layer) for layer in layers])
        patterns = (activations[Site("pattern", layer).hook] for layer in layers)
        parts.append(torch.stack([_all_scores(pattern, inputs) for pattern in patterns], 2))
    scores = rearrange(torch.cat(parts, 1), "score example layer head -> score layer head example")
    return labelled(scores, ["score", "layer", "head", "example"], {"score": list(SCORES)}, kind="bounded")


def head_score_chance(batch: Batch, causal: bool = True) -> xr.DataArray:
    """What a head that spreads its attention evenly would score, in closed form.

    Args:
        batch: As for `head_scores`: the two scores that look for repeats depend on where these are.
        causal: Whether a position sees only itself and what came before.

    Returns:
        Dimensions score, example; NaN as in `head_scores`.
    """
    pattern = uniform_pattern(batch.seq_len, causal).expand(len(batch), -1, -1).to(batch.device)
    return labelled(_all_scores(pattern, batch.inputs), ["score", "example"], {"score": list(SCORES)})


def _all_scores(pattern: Tensor, inputs: Tensor) -> Tensor:
    """`[score, batch, ...]`; what needs tokens is NaN for vectors."""
    tokens = inputs.ndim == 2
    blank = torch.full(pattern.shape[:-2], float("nan"), dtype=pattern.dtype, device=pattern.device)
    return torch.stack(
        [score(pattern, inputs) if tokens or name == "previous_token" else blank for name, score in SCORES.items()]
    )


def _mean_over_queries(pattern: Tensor, target: Bool[Tensor, "batch query key"]) -> Tensor:
    """Attention to the target keys, averaged over the queries that have any; NaN where none has."""
    # Few entries are targets: gathering them costs a small part of a product over all entries.
    example, query, key = target.nonzero(as_tuple=True)
    paid = pattern.movedim((-2, -1), (1, 2))[example, query, key]
    total = paid.new_zeros(len(target), *paid.shape[1:]).index_add(0, example, paid)
    return total / target.any(-1).sum(-1).reshape(-1, *[1] * (paid.ndim - 1))


def _square(pattern: Tensor) -> int:
    if pattern.ndim < 3 or pattern.shape[-1] != pattern.shape[-2]:
        raise ShapeError(f"a pattern is [batch, (head,) seq, seq], got {list(pattern.shape)}")
    return pattern.shape[-1]


def _fits(pattern: Tensor, tokens: Tensor) -> None:
    if tokens.shape != (pattern.shape[0], _square(pattern)):
        raise ShapeError(f"pattern {list(pattern.shape)} does not fit tokens {list(tokens.shape)} [batch, seq]")
