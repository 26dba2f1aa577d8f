"""AND, OR and redundant copies by hand: two heads report a fact each, and a ReLU MLP combines them.

A sequence holds a fact (a token that says 0 or 1) for each head among fillers, and ends with a question mark. The
residual stream, before it is concealed, is `[position | token | first | second | answer]`::

    head 1    q: is it the question?   k: is it fact A?   v: does A say 1?   -> first
    head 2    q: is it the question?   k: is it fact B?   v: does B say 1?   -> second
    MLP       AND: relu(first + second - 1)      OR: relu(first + second) - relu(first + second - 1)   -> answer
    logits    answer

The OR is saturated: two ones are no more than one. Redundant copies are an OR whose heads report the same fact.

What patching one edge shows depends on the direction. Replacing one input of an AND in the clean run (both 1) breaks
it; restoring one in the corrupted run (both 0) restores nothing. With an OR it is the reverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechinterp.core import Batch, Circuit, ConfigError, Edge, Pair, generator, suggest
from mechinterp.known.ground_truth import WAYS, KnownModel, conceal
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

FACTS: dict[str, dict[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "and": {"both": ((1, 1), (0, 0)), "first": ((1, 1), (0, 1)), "second": ((1, 1), (1, 0))},
    "or": {"both": ((1, 1), (0, 0)), "first": ((1, 0), (0, 0)), "second": ((0, 1), (0, 0))},
    "copies": {"both": ((1, 1), (0, 0))},
}
"""Gate -> corruption -> what the two heads report in the clean and in the corrupted run. The clean answer is 1."""
_SHARPNESS = 40.0
"""Attention logit of a match: a wrong key gets exp(-40) = 4e-18 of the attention."""
_GAIN = 8.0
"""Logit of yes minus logit of no where the answer is 1; minus that where it is 0."""
_FIRST_FILLER = 5  # token 0 asks, 1 and 2 are fact A saying 0 and 1, 3 and 4 fact B


def gate_model(
    gate: str = "and",
    seq_len: int = 10,
    fillers: int = 6,
    rotate: bool = True,
    inert_heads: int = 1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> KnownModel:
    """Two facts and a gate in one layer, nine edges, rotated and padded with inert heads.

    Args:
        gate: `and`, `or` (saturated), or `copies`, where both heads report fact A and each alone is enough.
        seq_len: Length of a sequence; its last position is scored.
        fillers: Tokens without meaning.
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        inert_heads: Heads beside the two true ones.
        dtype: float64 where exactness is asserted.
        seed: Of the rotation, the inert weights and the places of the true heads.

    Raises:
        ConfigError: If there is no such gate, or a sequence is too short for two facts.

    >>> either = gate_model("or")
    >>> len(either.circuit), len(either.seen(direction="noise")), len(either.seen(direction="denoise"))
    (9, 1, 5)
    """
    if gate not in FACTS:
        raise ConfigError(f"no gate '{gate}'.{suggest(gate, FACTS)}")
    if seq_len < 4 or fillers < 1:
        raise ConfigError(f"seq_len={seq_len}, fillers={fillers}: needs seq_len >= 4 and fillers >= 1")
    model, moved = conceal(_plain(gate, seq_len, fillers, dtype), inert_heads, rotate, seed)
    heads = [
        {kind: moved(f"embed->L0.H{head}.{kind}") for kind in "qkv"} | {"write": moved(f"L0.H{head}->L0.mlp")}
        for head in (0, 1)
    ]
    answer = Edge.parse("L0.mlp->logits")
    circuit = Circuit([*heads[0].values(), *heads[1].values(), answer], "split")
    exams = {
        (ablation, kind, way): Circuit([answer, *_moving(heads, gate, facts, ablation, way)], "split")
        for ablation, way in WAYS
        for kind, facts in FACTS[gate].items()
    }
    groups = [*([heads[0][kind], heads[1][kind]] for kind in heads[0]), [answer]] if gate == "copies" else []

    def pair(batch: int = 64, seed: int = 0, corruption: str = "both") -> Pair:
        return _pair(gate, seq_len, fillers, batch, seed, corruption)

    return KnownModel(model, circuit, pair, exams, groups=tuple(Circuit(group, "split") for group in groups))


def _moving(
    heads: list[dict[str, Edge]],
    gate: str,
    facts: tuple[tuple[int, int], tuple[int, int]],
    ablation: str,
    direction: str,
) -> list[Edge]:
    """The edges of both heads that show: patching one changes its head's fact, and that fact decides the gate."""
    clean, corrupted = facts
    run, moving = (clean if direction == "noise" else corrupted), []
    for head, edges in enumerate(heads):
        # An AND is decided by one input where the other is 1, an OR where it is 0.
        decides = run[1 - head] == (gate == "and")
        if not decides:
            continue
        differs = clean[head] != corrupted[head]
        if ablation == "resample":
            # The question is asked and the fact stands in the same place in both runs: only what it says differs.
            changes = ["v", "write"] if differs else []
        elif not clean[head]:
            # No token says 1: whatever a head attends to, and whatever it is fed, it reports 0 as before.
            changes = []
        elif ablation == "mean":
            # Facts stand elsewhere in other examples, so keys and values blur; the question does not, and a fact that
            # is 1 in every corrupted example has mean 1.
            changes = ["k", "v", "write"] if differs else ["k", "v"]
        else:
            changes = ["q", "k", "v", "write"]
        moving += [edges[name] for name in changes]
    return moving


def _plain(gate: str, seq_len: int, fillers: int, dtype: torch.dtype) -> Transformer:
    """The two true heads and the MLP alone, every variable on its own axes."""
    vocab, d_head = _FIRST_FILLER + fillers, 4
    token, width = seq_len, seq_len + vocab + 3
    first = seq_len + vocab
    config = ModelConfig(
        n_layers=1, n_heads=2, d_model=width, d_head=d_head, d_mlp=2, d_vocab=vocab, d_vocab_out=2, n_ctx=seq_len,
        normalization="none", attn_bias=False,
    )  # fmt: skip
    model = Transformer(config).to(dtype)
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E[:, token : token + vocab] = torch.eye(vocab, dtype=dtype)
        model.pos_embed.W_pos[:, :seq_len] = torch.eye(seq_len, dtype=dtype)
        for head in (0, 1):
            says_0 = token + (1 if head == 0 or gate == "copies" else 3)
            attn.W_Q[head, token, 0] = _SHARPNESS * math.sqrt(d_head)
            attn.W_K[head, says_0 : says_0 + 2, 0] = 1
            attn.W_V[head, says_0 + 1, 0] = 1
            attn.W_O[head, 0, first + head] = 1
        biases = dict(mlp.named_parameters())
        mlp.W_in[first : first + 2] = 1
        biases["b_in"].copy_(torch.tensor([-1.0, 0.0]))
        mlp.W_out[:, first + 2] = torch.tensor([1.0, 0.0] if gate == "and" else [-1.0, 1.0], dtype=dtype)
        biases["b_out"][first + 2] = -0.5
        model.unembed.W_U[first + 2] = _GAIN * torch.tensor([-1.0, 1.0], dtype=dtype)
    return model


def _pair(gate: str, seq_len: int, fillers: int, batch: int, seed: int, corruption: str) -> Pair:
    """The same fillers, places and question; facts say something else."""
    if corruption not in FACTS[gate]:
        raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, FACTS[gate])}")
    draw, rows = generator(seed, "handmade", "gate", gate, corruption), torch.arange(batch)
    tokens = torch.randint(fillers, (batch, seq_len), generator=draw) + _FIRST_FILLER
    places = torch.rand(batch, seq_len - 1, generator=draw).argsort(1)[:, :2]
    tokens[:, -1] = 0

    def sequences(facts: tuple[int, int]) -> Tensor:
        copies = tokens.clone()
        for fact in range(1 if gate == "copies" else 2):
            copies[rows, places[:, fact]] = 1 + 2 * fact + facts[fact]
        return copies

    scored = torch.zeros(batch, seq_len, dtype=torch.bool)
    scored[:, -1] = True
    roles = {"fact_A": places[:, 0], "question": torch.full((batch,), seq_len - 1)}
    if gate != "copies":
        roles["fact_B"] = places[:, 1]
    right, wrong = (torch.full_like(tokens, -1) for _ in range(2))
    right[:, -1], wrong[:, -1] = 1, 0
    clean, corrupted = (sequences(facts) for facts in FACTS[gate][corruption])
    return Pair(Batch(clean, right, scored, wrong, roles), Batch(corrupted, wrong, scored, right, roles))
