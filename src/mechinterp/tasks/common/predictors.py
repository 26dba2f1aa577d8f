"""Reference predictors over tokens: what a model would score if it knew only so much.

Each maps a batch to log probabilities `[batch, seq, vocab]` of the next token, from the tokens up to each position.
A predictor that excludes tokens keeps a share `_FLOOR` for the uniform distribution, so that a surprise costs much but
not infinitely much; where the predictor is right, that costs it about `_FLOOR` nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from mechinterp.core import Batch, derive_seed
from mechinterp.tasks.base import Task

_FLOOR = 1e-3
_LogProbs = Float[Tensor, "batch seq vocab"]


@dataclass(frozen=True)
class Uniform:
    """Every token of the vocabulary alike: log(vocab) nats everywhere."""

    vocab: int

    def __call__(self, batch: Batch) -> _LogProbs:
        return log_shares(torch.zeros(*batch.inputs.shape, self.vocab, dtype=torch.float32))


@dataclass(frozen=True)
class SeenTokens:
    """Every token alike that has occurred so far."""

    vocab: int

    def __call__(self, batch: Batch) -> _LogProbs:
        return log_shares((one_hot(batch.inputs, self.vocab).cumsum(1) > 0).float())


@dataclass(frozen=True)
class OneTokenMatch:
    """What followed earlier copies of the current token, in proportion; uniform where there is none.

    This is what an ideal induction head knows. On repeats it pays nothing when tokens are drawn without replacement,
    and about 0.26 nats in the default induction task with replacement, where other copies match by chance.
    """

    vocab: int

    def __call__(self, batch: Batch) -> _LogProbs:
        tokens = batch.inputs
        earlier = (tokens[:, :, None] == tokens[:, None, :]).float().tril(-1)[:, :, :-1]
        followers = one_hot(tokens[:, 1:], self.vocab).float()
        return log_shares(earlier @ followers)


@dataclass(frozen=True)
class PositionOnly:
    """The best copier that knows positions and nothing about which token stands where.

    At position q it predicts a mixture of the tokens at positions j <= q with weights w[q, j], and the uniform
    distribution: whatever one layer of attention can copy by position alone. The weights are the most likely ones for
    scored positions of `examples` sequences of their own, by expectation maximisation (the likelihood is concave in
    the weights, so there is one optimum; 60 rounds end within 0.01 nats of it).

    Args:
        task: Whose sequences to fit. Evaluate on another task to ask what the weights are worth there.
        vocab: Tokens.
        examples: How many sequences to fit on.
    """

    task: Task
    vocab: int
    examples: int = 2048
    rounds: int = 60

    @cached_property
    def weights(self) -> Float[Tensor, "seq seq_plus_1"]:
        """Weight of each position j (columns) at position q (rows), the uniform distribution's in the last column."""
        batch = self.task.batch(self.examples, derive_seed(0, "position-only"))
        seq = batch.seq_len
        rows = []
        for q in range(seq):
            here = batch.scored[:, q]
            match = (batch.inputs[here, : q + 1] == batch.targets[here, q, None]).float()
            match = torch.cat([match, torch.full((len(match), 1), 1 / self.vocab, dtype=torch.float32)], 1)
            weight = torch.full((q + 2,), 1 / (q + 2), dtype=torch.float32)
            for _ in range(self.rounds if len(match) else 0):
                share = match * weight
                weight = (share / share.sum(1, keepdim=True)).mean(0)
            row = torch.zeros(seq + 1, dtype=torch.float32)
            row[: q + 1], row[-1] = (weight[:-1], weight[-1]) if len(match) else (0.0, 1.0)
            rows.append(row)
        return torch.stack(rows)

    def __call__(self, batch: Batch) -> _LogProbs:
        copied = self.weights[:, :-1] @ one_hot(batch.inputs, self.vocab).float()
        mixed = copied + self.weights[:, -1:] / self.vocab
        return ((1 - _FLOOR) * mixed + _FLOOR / self.vocab).log()


def log_shares(counts: _LogProbs) -> _LogProbs:
    """Log probabilities in proportion to counts, uniform where all are zero, never below the floor."""
    total = counts.sum(-1, keepdim=True)
    uniform = 1 / counts.shape[-1]
    shares = torch.where(total > 0, counts / total.clamp(min=1e-9), torch.full_like(counts, uniform))
    return ((1 - _FLOOR) * shares + _FLOOR * uniform).log()
