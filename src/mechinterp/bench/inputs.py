"""Random models and pairs of the benchmarks: time depends on sizes, not on what a model has learnt."""

from __future__ import annotations

import torch

from mechinterp.bench.timing import Figures
from mechinterp.core import Batch, Pair, generator
from mechinterp.models import ModelConfig, Transformer

BATCH, VOCAB = 16, 64


def random_model(n_layers: int, n_heads: int, seq: int, d_mlp: int = 0, d_model: int = 64) -> Transformer:
    """An untrained model in evaluation mode."""
    config = ModelConfig(n_layers=n_layers, n_heads=n_heads, d_model=d_model, d_mlp=d_mlp, d_vocab=VOCAB, n_ctx=seq)
    return Transformer(config).eval()


def random_pair(seq: int, scored: str, batch: int = BATCH) -> Pair:
    """Two unrelated random batches; `scored` is `last` (position) or `all`."""
    draw = generator(0, "bench", "pair")
    clean, corrupted, right = (torch.randint(VOCAB, (batch, seq), generator=draw) for _ in range(3))
    wrong = (right + torch.randint(1, VOCAB, (batch, seq), generator=draw)) % VOCAB
    mask = torch.ones(batch, seq, dtype=torch.bool)
    if scored == "last":
        mask[:, :-1] = False
    return Pair(Batch(clean, right, mask, wrong), Batch(corrupted, right, mask, wrong))


def describe(model: Transformer, pair: Pair) -> Figures:
    """The sizes, for the result."""
    config = model.config
    return {
        "layers": config.n_layers,
        "heads": config.n_heads,
        "d_model": config.d_model,
        "d_mlp": config.d_mlp,
        "batch": len(pair),
        "length": pair.clean.seq_len,
        "scored": "all" if bool(pair.clean.scored.all()) else "last",
    }
