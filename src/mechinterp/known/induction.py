"""Induction by hand: two heads, seven edges, exact.

The residual stream, before it is concealed, is `[position | token | previous | output]`::

    layer 0   q: position i asks for i-1     k: position     v: token -> previous
    layer 1   q: token                       k: previous     v: token -> output
    logits    output
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechinterp.core import Batch, Circuit, ConfigError, Pair, generator, suggest
from mechinterp.known.ground_truth import WAYS, KnownModel, conceal
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

_CORRUPTIONS = ("successor", "match", "query")
_SHARPNESS = 40.0
"""Attention logit of a match: a wrong key gets exp(-40) = 4e-18 of the attention."""
_GAIN = 8.0
"""Logit of the copied token."""


def induction_model(
    vocab: int = 12,
    seq_len: int = 12,
    rotate: bool = True,
    inert_heads: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> KnownModel:
    """The exact two-layer induction circuit, seven edges, rotated and padded with inert heads.

    Args:
        vocab: Tokens, the first of which only starts a sequence.
        seq_len: Length of a sequence; its last position is scored.
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        inert_heads: Heads per layer beside the true one.
        dtype: float64 where exactness is asserted.
        seed: Of the rotation, the inert weights and the places of the true heads.

    Raises:
        ConfigError: If the vocabulary is too small for distinct tokens.

    >>> made = induction_model()
    >>> [str(edge) for edge in made.circuit][:2], len(made.circuit)
    (['pos->L0.H1.q', 'pos->L0.H1.k'], 7)
    """
    if seq_len < 6 or vocab < seq_len - 1:
        raise ConfigError(f"vocab={vocab}, seq_len={seq_len}: needs seq_len >= 6 and vocab >= seq_len - 1")
    model, moved = conceal(_plain(vocab, seq_len, dtype), inert_heads, rotate, seed)
    plain = {
        "ask_position": "pos->L0.H0.q", "hold_position": "pos->L0.H0.k", "carry_token": "embed->L0.H0.v",
        "hold_previous": "L0.H0->L1.H0.k", "ask_token": "embed->L1.H0.q",
        "copy_token": "embed->L1.H0.v", "write": "L1.H0->logits",
    }  # fmt: skip
    wires = {name: moved(edge) for name, edge in plain.items()}
    by_corruption = {
        "successor": ["copy_token", "write"],
        "match": ["carry_token", "hold_previous", "write"],
        "query": ["ask_token", "write"],
    }

    def visible(ablation: str, corruption: str) -> Circuit:
        if ablation in ("zero", "mean-pos"):
            return Circuit(wires.values(), "split")
        # A source that is equal in the run and in its replacement has no effect; positions always are.
        names = [name for name in wires if "position" not in name] if ablation == "mean" else by_corruption[corruption]
        return Circuit([wires[name] for name in names], "split")

    def pair(batch: int = 64, seed: int = 0, corruption: str = "successor") -> Pair:
        return _induction_pair(vocab, seq_len, batch, seed, corruption)

    exams = {(ablation, kind, way): visible(ablation, kind) for ablation, way in WAYS for kind in _CORRUPTIONS}
    return KnownModel(model, Circuit(wires.values(), "split"), pair, exams)


def _plain(vocab: int, seq_len: int, dtype: torch.dtype) -> Transformer:
    """The two true heads alone, every variable on its own axes."""
    sizes = {"position": seq_len, "token": vocab, "previous": vocab, "output": vocab}
    at, width = {}, 0
    for name, size in sizes.items():
        at[name], width = slice(width, width + size), width + size
    d_head = max(seq_len, vocab)
    config = ModelConfig(
        n_layers=2, n_heads=1, d_model=width, d_head=d_head, d_vocab=vocab, n_ctx=seq_len,
        normalization="none", attn_bias=False,
    )  # fmt: skip
    model = Transformer(config).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for block, asks, holds, writes in zip(
            model.blocks, ("position", "token"), ("position", "previous"), ("previous", "output"), strict=True
        ):
            query = torch.eye(sizes[asks], dtype=dtype)
            if asks == "position":
                query = query.roll(-1, 1)
                query[0] = 0  # nothing comes before the first position, and the roll would wrap around
            block.attn.W_Q[0, at[asks], : sizes[asks]] = query * (_SHARPNESS * math.sqrt(d_head))
            block.attn.W_K[0, at[holds], : sizes[holds]] = torch.eye(sizes[holds], dtype=dtype)
            block.attn.W_V[0, at["token"], :vocab] = torch.eye(vocab, dtype=dtype)
            block.attn.W_O[0, :vocab, at[writes]] = torch.eye(vocab, dtype=dtype)
        model.embed.W_E[:, at["token"]] = torch.eye(vocab, dtype=dtype)
        model.pos_embed.W_pos[:, at["position"]] = torch.eye(seq_len, dtype=dtype)
        model.unembed.W_U[at["output"]] = _GAIN * torch.eye(vocab, dtype=dtype)
    return model


def _induction_pair(vocab: int, seq_len: int, batch: int, seed: int, corruption: str) -> Pair:
    """`S . . A B . . C D . . A`: the answer is B; corrupted, it is the token that `wrong` names."""
    if corruption not in _CORRUPTIONS:
        raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, _CORRUPTIONS)}")
    draw = generator(seed, "handmade", "pair", corruption)
    body = torch.rand(batch, vocab - 1, generator=draw).argsort(1)[:, : seq_len - 2] + 1
    tokens = torch.cat([torch.zeros(batch, 1, dtype=torch.long), body, body[:, :1]], 1)
    # Two places for "A B" and "C D", at least two apart, neither touching the query.
    places = torch.rand(batch, seq_len // 2 - 1, generator=draw).argsort(1)[:, :2] * 2 + 1
    a, c, rows = places[:, 0], places[:, 1], torch.arange(batch)
    tokens[:, -1] = tokens[rows, a]
    right, other = tokens[rows, a + 1], tokens[rows, c + 1]
    changed = tokens.clone()
    if corruption == "successor":
        # B and D change places: the answer becomes D, and every token still occurs as often as before.
        changed[rows, a + 1], changed[rows, c + 1] = other, right
    elif corruption == "match":
        changed[rows, a], changed[rows, c] = tokens[rows, c], tokens[rows, a]
    else:
        changed[:, -1] = tokens[rows, c]
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    scored[:, -1] = True
    roles = {
        "first_A": a,
        "first_B": a + 1,
        "other_A": c,
        "other_B": c + 1,
        "answer": torch.full((batch,), seq_len - 1),
    }

    def answered(inputs: Tensor, answer: Tensor, wrong: Tensor) -> Batch:
        blank = torch.full_like(tokens, -1)
        targets, wrongs = blank.clone(), blank.clone()
        targets[:, -1], wrongs[:, -1] = answer, wrong
        return Batch(inputs, targets, scored, wrongs, roles)

    return Pair(answered(tokens, right, other), answered(changed, other, right))
