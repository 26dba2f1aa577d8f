"""Five tasks that keep the contract and lack most of what shipped tasks have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mechinterp.core import Batch, Pair, generator
from mechinterp.tasks import Predictor, Preset, Task


def _preset(**model: object) -> Preset:
    sizes = dict(n_layers=1, n_heads=2, d_model=8, n_ctx=6)
    return Preset({**sizes, **model}, dict(steps=3, batch_size=4, lr=1e-3, warmup=0, linear_checkpoints=2))


class NoPairs(Task):
    """Say the token before; no pairs, and so no roles."""

    name = "odd-no-pairs"

    @property
    def latents(self) -> Mapping[str, int | None]:
        return {"parity": 2}

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        tokens = torch.randint(7, (batch, 6), generator=generator(seed, self.name))
        targets = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)
        return Batch(tokens, targets, targets >= 0, latents={"parity": tokens % 2})

    def preset(self) -> Preset:
        return _preset(d_vocab=7)


class NoPredictors(Task):
    """Say the first token at the end; pairs without names and roles, no predictors and no latents."""

    name = "odd-no-predictors"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        tokens = torch.randint(7, (batch, 6), generator=generator(seed, self.name))
        return self._of(tokens)

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        clean = self.batch(batch, seed + 1)
        other = clean.inputs.clone()
        other[:, 0] = (other[:, 0] + 1) % 7
        return Pair(self._of(clean.inputs, other), self._of(other, clean.inputs))

    def _of(self, tokens: Tensor, other: Tensor | None = None) -> Batch:
        last = torch.zeros_like(tokens, dtype=torch.bool)
        last[:, -1] = True

        def targets(source: Tensor) -> Tensor:
            return torch.where(last, source[:, :1], -1)

        return Batch(tokens, targets(tokens), last, wrong=None if other is None else targets(other))

    def preset(self) -> Preset:
        return _preset(d_vocab=7)


class OneCorruption(NoPredictors):
    """The same with one corruption, one role and a trivial predictor."""

    name = "odd-one-corruption"
    corruptions = ("first",)
    trivial = ("even",)

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "first") -> Pair:
        pair = NoPredictors.pair(self, batch, seed)
        roles = {"first": torch.zeros(batch, dtype=torch.long)}
        return Pair(*(Batch(b.inputs, b.targets, b.scored, b.wrong, roles) for b in (pair.clean, pair.corrupted)))

    def predictors(self) -> Mapping[str, Predictor]:
        return {"even": lambda batch: torch.zeros(*batch.inputs.shape, 7, dtype=torch.float32).log_softmax(-1)}


class Vectors(Task):
    """Repeat the first vector's sum at the end; real inputs and answers."""

    name = "odd-vectors"
    corruptions = ("first",)

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        return self._of(torch.randn(batch, 4, 3, generator=generator(seed, self.name), dtype=torch.float32))

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "first") -> Pair:
        clean = torch.randn(batch, 4, 3, generator=generator(seed, self.name, "pair"), dtype=torch.float32)
        other = clean.clone()
        other[:, 0] = -other[:, 0]
        return Pair(self._of(clean), self._of(other))

    def _of(self, x: Tensor) -> Batch:
        scored = torch.zeros(x.shape[:2], dtype=torch.bool)
        scored[:, -1] = True
        return Batch(x, x[:, :1].sum(-1, keepdim=True).expand(-1, x.shape[1], -1), scored)

    def preset(self) -> Preset:
        return _preset(inputs="vectors", d_in=3, outputs="values", d_out=1)


class OneExampleScored(NoPredictors):
    """One scored position, at the start, where a causal model has seen one token."""

    name = "odd-first-position"

    def _of(self, tokens: Tensor, other: Tensor | None = None) -> Batch:
        first = torch.zeros_like(tokens, dtype=torch.bool)
        first[:, 0] = True

        def targets(source: Tensor) -> Tensor:
            return torch.where(first, source, -1)

        return Batch(tokens, targets(tokens), first, wrong=None if other is None else targets(other))


ODD_TASKS = (NoPairs(), NoPredictors(), OneCorruption(), Vectors(), OneExampleScored())
