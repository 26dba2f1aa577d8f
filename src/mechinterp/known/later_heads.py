"""A head and a later one that stands by for it, or works against it, by hand.

A sequence holds a fact (a token that says 0 or 1) among fillers, and ends with a question mark. The residual stream,
before it is concealed, is `[position | token | said]`::

    main         q: is it the question?   k: is it the fact?   v: does it say 1?   -> said
    backup       the same in the next layer; and where main says 1, it attends to the question mark and writes nothing
    suppressor   in the next layer, from the question to itself   v: said   -> minus half of it
    logits       said

The backup writes nothing while main says 1, so no patch of its output shows anything: it acts when main is gone. The
suppressor makes the right answer less sure: the metric rises when it is removed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechinterp.core import Batch, Circuit, ConfigError, Pair, generator, suggest
from mechinterp.known.ground_truth import WAYS, KnownModel, conceal
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

_CORRUPTION = "fact"
_SHARPNESS = 40.0
"""Attention logit of a match: a wrong key gets exp(-40) = 4e-18 of the attention."""
_GAIN = 8.0
"""Logit of yes minus logit of no rises by twice this as `said` rises by 1."""
_FIRST_FILLER = 3  # token 0 asks, 1 and 2 are the fact saying 0 and 1
_MAIN = {
    "q": "embed->L0.H0.q", "k": "embed->L0.H0.k", "v": "embed->L0.H0.v", "write": "L0.H0->logits",
}  # fmt: skip
_LATER: dict[str, dict[str, str]] = {
    "backup": {
        "hush": "L0.H0->L1.H0.q", "later_q": "embed->L1.H0.q", "later_k": "embed->L1.H0.k",
        "later_v": "embed->L1.H0.v", "later_write": "L1.H0->logits",
    },
    "suppressor": {
        "later_q": "embed->L1.H0.q", "later_k": "embed->L1.H0.k", "later_v": "L0.H0->L1.H0.v",
        "later_write": "L1.H0->logits",
    },
}  # fmt: skip
_SEEN: dict[str, dict[tuple[str, str], str]] = {
    # Whatever main reads wrongly, the backup makes good; without attention to one place a head reports a share of 1.
    "backup": {
        ("resample", "noise"): "write hush",
        ("resample", "denoise"): "v write later_v",
        ("mean", "noise"): "k write hush",
        ("mean-pos", "noise"): "q k write hush later_k",
        ("zero", "noise"): "q k write hush later_k",
    },
    # The question stands in the same place in all examples, and so in their mean.
    "suppressor": {
        ("resample", "noise"): "v write later_v later_write",
        ("resample", "denoise"): "v write later_v later_write",
        ("mean", "noise"): "k v write later_v later_write",
        ("mean-pos", "noise"): "q k v write later_q later_k later_v later_write",
        ("zero", "noise"): "q k v write later_q later_k later_v later_write",
    },
}
"""Which edges have an effect of their own, by ablation and direction."""


def later_head_model(
    later: str = "backup",
    seq_len: int = 10,
    fillers: int = 6,
    rotate: bool = True,
    inert_heads: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> KnownModel:
    """A head that reports a fact and a later one, its backup or its suppressor, rotated and padded with inert heads.

    Args:
        later: `backup` (nine edges) or `suppressor` (eight).
        seq_len: Length of a sequence; its last position is scored.
        fillers: Tokens without meaning.
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        inert_heads: Heads per layer beside the true one.
        dtype: float64 where exactness is asserted.
        seed: Of the rotation, the inert weights and the places of the true heads.

    Raises:
        ConfigError: If there is no such later head, or a sequence is too short.

    >>> backup = later_head_model("backup")
    >>> len(backup.circuit), len(backup.seen(direction="noise")), len(backup.seen(direction="denoise"))
    (9, 2, 3)
    """
    if later not in _LATER:
        raise ConfigError(f"no later head '{later}'.{suggest(later, _LATER)}")
    if seq_len < 3 or fillers < 1:
        raise ConfigError(f"seq_len={seq_len}, fillers={fillers}: needs seq_len >= 3 and fillers >= 1")
    model, moved = conceal(_plain(later, seq_len, fillers, dtype), inert_heads, rotate, seed)
    wires = {name: moved(edge) for name, edge in (_MAIN | _LATER[later]).items()}
    exams = {
        (ablation, _CORRUPTION, way): Circuit([wires[name] for name in _SEEN[later][ablation, way].split()], "split")
        for ablation, way in WAYS
    }
    groups = [[wires[name], wires[f"later_{name}"]] for name in _MAIN] if later == "backup" else []
    groups += [[wires["hush"]]] if later == "backup" else []

    def pair(batch: int = 64, seed: int = 0, corruption: str = _CORRUPTION) -> Pair:
        return _pair(seq_len, fillers, batch, seed, corruption)

    circuit = Circuit(wires.values(), "split")
    return KnownModel(model, circuit, pair, exams, groups=tuple(Circuit(group, "split") for group in groups))


def _plain(later: str, seq_len: int, fillers: int, dtype: torch.dtype) -> Transformer:
    """The two true heads alone, every variable on its own axes."""
    vocab, d_head = _FIRST_FILLER + fillers, 4
    asks, fact, says_1, said = seq_len, slice(seq_len + 1, seq_len + 3), seq_len + 2, seq_len + vocab
    config = ModelConfig(
        n_layers=2, n_heads=1, d_model=said + 1, d_head=d_head, d_vocab=vocab, d_vocab_out=2, n_ctx=seq_len,
        normalization="none", attn_bias=False, unembed_bias=True,
    )  # fmt: skip
    model = Transformer(config).to(dtype)
    sharp = _SHARPNESS * math.sqrt(d_head)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E[:, seq_len:said] = torch.eye(vocab, dtype=dtype)
        model.pos_embed.W_pos[:, :seq_len] = torch.eye(seq_len, dtype=dtype)
        main, other = (block.attn for block in model.blocks)
        for attn in (main, other) if later == "backup" else (main,):
            attn.W_Q[0, asks, 0] = sharp
            attn.W_K[0, fact, 0] = 1
            attn.W_V[0, says_1, 0] = 1
            attn.W_O[0, 0, said] = 1
        other.W_K[0, asks, 1] = 1
        if later == "backup":
            other.W_Q[0, said, 1] = 2 * sharp
        else:
            other.W_Q[0, asks, 1] = sharp
            other.W_V[0, said, 0] = 1
            other.W_O[0, 0, said] = -0.5
        model.unembed.W_U[said] = _GAIN * torch.tensor([-1.0, 1.0], dtype=dtype)
        # Half-way between what is said of a 0 and of a 1.
        middle = 0.5 if later == "backup" else 0.25
        model.unembed.b_U.copy_(_GAIN * middle * torch.tensor([1.0, -1.0], dtype=dtype))
    return model


def _pair(seq_len: int, fillers: int, batch: int, seed: int, corruption: str) -> Pair:
    """The same fillers, place and question; the fact says 1 in the clean run and 0 in the corrupted one."""
    if corruption != _CORRUPTION:
        raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, [_CORRUPTION])}")
    draw, rows = generator(seed, "handmade", "later head"), torch.arange(batch)
    tokens = torch.randint(fillers, (batch, seq_len), generator=draw) + _FIRST_FILLER
    places = torch.randint(seq_len - 1, (batch,), generator=draw)
    tokens[:, -1] = 0

    def saying(value: int) -> Tensor:
        copies = tokens.clone()
        copies[rows, places] = 1 + value
        return copies

    scored = torch.zeros(batch, seq_len, dtype=torch.bool)
    scored[:, -1] = True
    roles = {"fact": places, "question": torch.full((batch,), seq_len - 1)}
    right, wrong = (torch.full_like(tokens, -1) for _ in range(2))
    right[:, -1], wrong[:, -1] = 1, 0
    return Pair(Batch(saying(1), right, scored, wrong, roles), Batch(saying(0), wrong, scored, right, roles))
