"""Models whose circuit is known because it was written by hand: the ground truth of every exam.

The induction model's residual stream, before it is rotated, is `[position | token | previous | output | junk]`::

    layer 0   q: position i asks for i-1     k: position     v: token -> previous
    layer 1   q: token                       k: previous     v: token -> output
    logits    output

Inert heads read everything and write to `junk`, which no true head and no logit reads: every edge that is not in the
circuit is inert by construction. A random rotation of the stream then hides the axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mechinterp.core import Batch, Circuit, ConfigError, Pair, generator, suggest
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

CORRUPTIONS = ("successor", "match", "query")
SHARPNESS = 40.0
"""Attention logit of a match: a wrong key gets exp(-40) = 4e-18 of the attention."""
GAIN = 8.0
"""Logit of the copied token."""


@dataclass(frozen=True, eq=False)
class HandMade:
    """A model, its true circuit, and pairs that exercise it.

    Args:
        model: The model.
        circuit: All edges that the task needs, and no other.
        pair: `pair(batch, seed, corruption) -> Pair`.
        seen: Edges that an intervention can see: `seen(ablation, corruption) -> Circuit`.
    """

    model: Transformer
    circuit: Circuit
    pair: Callable[..., Pair]
    seen: Callable[[str, str], Circuit]


def induction_model(
    vocab: int = 12,
    seq_len: int = 12,
    rotate: bool = True,
    inert_heads: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> HandMade:
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
    heads, junk = inert_heads + 1, 4
    sizes = {"position": seq_len, "token": vocab, "previous": vocab, "output": vocab, "junk": junk}
    starts = dict(zip(sizes, [sum(list(sizes.values())[:i]) for i in range(len(sizes))], strict=True))
    width, d_head = sum(sizes.values()), max(seq_len, vocab)
    config = ModelConfig(
        n_layers=2, n_heads=heads, d_model=width, d_head=d_head, d_vocab=vocab, n_ctx=seq_len,
        normalization="none", attn_bias=False,
    )  # fmt: skip
    model = Transformer(config, seed).to(dtype)
    true = [int(torch.randint(heads, (), generator=generator(seed, "handmade", "place", layer))) for layer in (0, 1)]

    def block(name: str, size: int | None = None) -> slice:
        return slice(starts[name], starts[name] + (size or sizes[name]))

    with torch.no_grad():
        # Inert heads keep their random q, k, v and write to junk alone.
        for layer in model.blocks:
            attn = layer.attn
            attn.W_O[:, :, : starts["junk"]] = 0
        for layer, (asks, holds, writes) in enumerate(
            [("position", "position", "previous"), ("token", "previous", "output")]
        ):
            attn, head = model.blocks[layer].attn, true[layer]
            for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
                weight[head] = 0
            eye = torch.eye(sizes[asks], dtype=dtype)
            query = eye.roll(-1, 1) if asks == "position" else eye
            if asks == "position":
                query[0] = 0  # nothing comes before the first position, and the roll would wrap around
            attn.W_Q[head][block(asks), : sizes[asks]] = query * (SHARPNESS * math.sqrt(d_head))
            attn.W_K[head][block(holds), : sizes[holds]] = torch.eye(sizes[holds], dtype=dtype)
            attn.W_V[head][block("token"), :vocab] = torch.eye(vocab, dtype=dtype)
            attn.W_O[head][:vocab, block(writes)] = torch.eye(vocab, dtype=dtype)
        model.embed.W_E.zero_()[:, block("token")] = torch.eye(vocab, dtype=dtype)
        model.pos_embed.W_pos.zero_()[:, block("position")] = torch.eye(seq_len, dtype=dtype)
        model.unembed.W_U.zero_()[block("output")] = GAIN * torch.eye(vocab, dtype=dtype)
        if rotate:
            draw = torch.randn(width, width, dtype=torch.float64, generator=generator(seed, "handmade", "rotation"))
            rotate_stream(model, torch.linalg.qr(draw).Q.to(dtype))

    first, second = f"L0.H{true[0]}", f"L1.H{true[1]}"
    wires = {
        "ask_position": f"pos->{first}.q", "hold_position": f"pos->{first}.k", "carry_token": f"embed->{first}.v",
        "hold_previous": f"{first}->{second}.k", "ask_token": f"embed->{second}.q",
        "copy_token": f"embed->{second}.v", "write": f"{second}->logits",
    }  # fmt: skip
    circuit = Circuit(wires.values(), "split")
    by_corruption = {
        "successor": ["copy_token", "write"],
        "match": ["carry_token", "hold_previous", "write"],
        "query": ["ask_token", "write"],
    }

    def seen(ablation: str, corruption: str) -> Circuit:
        if ablation in ("zero", "mean-pos"):
            return circuit
        # A source that is equal in the run and in its replacement has no effect; positions always are.
        names = [name for name in wires if "position" not in name] if ablation == "mean" else by_corruption[corruption]
        return Circuit([wires[name] for name in names], "split")

    def pair(batch: int = 64, seed: int = 0, corruption: str = "successor") -> Pair:
        return _induction_pair(vocab, seq_len, batch, seed, corruption)

    return HandMade(model, circuit, pair, seen)


@torch.no_grad()
def rotate_stream(model: Transformer, rotation: Tensor) -> None:
    """Change the basis of the residual stream, in place; without a norm the outputs stay the same.

    Args:
        model: A model without normalisation.
        rotation: Orthogonal, `[d_model, d_model]`.

    Raises:
        ConfigError: If the model has a norm, which a rotation does not commute with, or a readout.
    """
    if model.config.readout_layers:
        raise ConfigError("a model with readout_layers > 0 is not rotated")
    if model.config.normalization != "none":
        raise ConfigError(f"normalization='{model.config.normalization}' does not commute with a rotation")
    for name, weight in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            weight.copy_(weight @ rotation)
        elif leaf in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            weight.copy_(rotation.T @ weight)


def _induction_pair(vocab: int, seq_len: int, batch: int, seed: int, corruption: str) -> Pair:
    """`S . . A B . . C D . . A`: the answer is B; corrupted, it is the token that `wrong` names."""
    if corruption not in CORRUPTIONS:
        raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, CORRUPTIONS)}")
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

    def made(inputs: Tensor, answer: Tensor, wrong: Tensor) -> Batch:
        blank = torch.full_like(tokens, -1)
        targets, wrongs = blank.clone(), blank.clone()
        targets[:, -1], wrongs[:, -1] = answer, wrong
        return Batch(inputs, targets, scored, wrongs, roles)

    return Pair(made(tokens, right, other), made(changed, other, right))
