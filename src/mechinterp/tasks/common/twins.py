"""Counterfactual twins of token sequences in which a query's only earlier copy says what comes next.

Everything here works on `tokens` `[batch, seq + 1]`, the inputs and the last target.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechinterp.core import Batch, Pair
from mechinterp.tasks.common.tokens import exchange, previous_token

_Tokens = Int[Tensor, "batch tokens"]
_Mask = Bool[Tensor, "batch seq"]


def single_matches(tokens: _Tokens, scored: _Mask) -> Bool[Tensor, "batch seq seq"]:
    """Whether q (rows) may be a query: scored, with p (columns) as its only earlier copy, which says the same.

    The copy's follower stands apart from the query, so that it can change while the query stays.
    """
    earlier = (tokens[:, :-1, None] == tokens[:, None, :-1]).tril(-1)
    agrees = tokens[:, 1:, None] == tokens[:, None, 1:]
    once = earlier.sum(-1, keepdim=True) == 1
    apart = torch.ones_like(earlier[0]).tril(-2)
    return earlier & agrees & once & apart & scored[..., None]


def change_successor(
    tokens: _Tokens, allowed: Tensor, vocab: int, gen: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Put a token that occurs nowhere else in the place of what followed the earlier copy.

    Args:
        tokens: Sequences.
        allowed: What `single_matches` gave.
        vocab: Tokens to choose from.
        gen: Chooses the query and the new token.

    Returns:
        For the sequences that allow it: clean tokens, corrupted tokens, and places [query, first_A].
    """
    unused = torch.ones(len(tokens), vocab, dtype=torch.bool).scatter(1, tokens, False)
    rows = allowed.flatten(1).any(1) & unused.any(1)
    tokens, allowed, unused = tokens[rows], allowed[rows], unused[rows]
    query = _choose(allowed.any(-1), gen)
    first = _row(allowed, query).long().argmax(-1, keepdim=True)
    return tokens, tokens.scatter(1, first + 1, _choose(unused, gen)), torch.cat([query, first], 1)


def move_match(tokens: _Tokens, allowed: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Let the earlier copy change places with another token that occurs once, so that the match lies elsewhere.

    Which tokens were seen stays the same, and the query too.

    Returns:
        For the sequences that allow it: clean tokens, corrupted tokens, and places [query, first_A, other_A].
    """
    rows = allowed.flatten(1).any(1)
    tokens, allowed = tokens[rows], allowed[rows]
    query = _choose(allowed.any(-1), gen)
    first = _row(allowed, query).long().argmax(-1, keepdim=True)
    place = torch.arange(tokens.shape[1] - 1)
    inputs = tokens[:, :-1]
    alone = ((inputs[:, :, None] == inputs[:, None, :]) & (place <= query)[:, None, :]).sum(-1) == 1
    says_else = tokens[:, 1:] != tokens.gather(1, first + 1)
    fits = alone & says_else & (place + 1 < query) & ((place - first).abs() > 1)
    rows = fits.any(1)
    tokens, query, first, fits = tokens[rows], query[rows], first[rows], fits[rows]
    other = _choose(fits, gen)
    return tokens, exchange(tokens, first, other), torch.cat([query, first, other], 1)


def make_pair(tokens: _Tokens, swapped: _Tokens, places: Int[Tensor, "batch places"]) -> Pair:
    """Both batches, scored at the query; a twin's right answer is what its own earlier copy says.

    Args:
        tokens: Clean.
        swapped: Corrupted.
        places: Position of the query, of its earlier copy, and of that copy in the twin, if it is another.
    """
    query, first, source = places[:, :1], places[:, 1], places[:, -1]
    after = query[:, 0] + 1
    roles = {"first_A": first, "first_B": first + 1, "second_A": query[:, 0]}
    roles["answer"] = torch.where(after < tokens.shape[1] - 1, after, -1)
    if places.shape[1] == 3:
        roles |= {"other_A": source, "other_B": source + 1}
    scored = torch.zeros_like(tokens[:, 1:], dtype=torch.bool).scatter(1, query, True)
    right = tokens.gather(1, first[:, None] + 1)
    wrong = swapped.gather(1, source[:, None] + 1)
    nothing = torch.full_like(tokens[:, 1:], -1)
    clean = with_latents(tokens[:, :-1], tokens[:, 1:], scored, wrong=nothing.scatter(1, query, wrong), roles=roles)
    targets = swapped[:, 1:].scatter(1, query, wrong)
    corrupted = with_latents(swapped[:, :-1], targets, scored, wrong=nothing.scatter(1, query, right), roles=roles)
    return Pair(clean, corrupted)


def with_latents(
    inputs: Tensor,
    targets: Tensor,
    scored: Tensor,
    wrong: Tensor | None = None,
    roles: Mapping[str, Tensor] | None = None,
) -> Batch:
    """A Batch with the latents that its inputs imply: previous token, induction target, whether a token repeats."""
    followed = torch.cat([inputs[:, 1:], torch.full_like(inputs[:, :1], -1)], 1)
    place = torch.arange(inputs.shape[1], device=inputs.device)
    earlier = (inputs[:, :, None] == inputs[:, None, :]).tril(-1)
    last = torch.where(earlier, place, -1).amax(-1)
    latents = {
        "previous_token": previous_token(inputs),
        "induction_target": torch.where(last >= 0, followed.gather(1, last.clamp(min=0)), -1),
        "is_repeat": (last >= 0).long(),
    }
    return Batch(inputs, targets, scored, wrong, roles or {}, latents)


def _choose(allowed: Bool[Tensor, "batch options"], gen: torch.Generator) -> Int[Tensor, "batch 1"]:
    """One allowed option per row, all alike."""
    return torch.multinomial(allowed.float(), 1, generator=gen) if len(allowed) else allowed[:, :1].long()


def _row(table: Tensor, index: Int[Tensor, "batch 1"]) -> Tensor:
    return table[torch.arange(len(table)), index[:, 0]]
