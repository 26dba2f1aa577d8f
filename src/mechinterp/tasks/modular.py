"""Modular addition: from some sums of two residues to all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from mechinterp.core import Batch, ConfigError, Pair, generator
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.predictors import Uniform, log_shares

Summands = Int[Tensor, "batch 2"]


class ModularAddition(Task):
    """Two residues and a `=`; at `=`, say their sum modulo p. Only some of the sums are ever trained on.

    One example with p = 59::

        position     0  1  2
        input       40 30  =
        target            11
        scored       .  .  *

    The p * p examples are split once, by `split`: a `fraction` of them is the training set, the rest the test set.
    Training sees the whole training set at every step (or, with a smaller batch size, that many of it), and `watched`
    examples of the test set ride along for their loss without being scored. `batch` draws from all examples and scores
    each; the groups `train` and `test` tell them apart. `table` is all of them in order.

    A pair comes from the test set, clean and corrupted, so only generalising passes. Roles `a`, `b`, `equals`
    are 0, 1, 2. The corruptions::

        a           17 30  =      the first summand is another: the answer is now 47
        b           40 21  =      the second is another: the answer is now 2

    Args:
        p: The modulus; `=` is token p. Outputs are the p residues.
        fraction: Share of examples in the training set.
        split: Which training set: the seed of the split. Runs of one task share it, whatever their own seed.
        watched: How many test examples ride along in training.

    Source: Nanda et al. 2023 (there p = 113, fraction .3).

    >>> task = ModularAddition(p=5)
    >>> batch = task.batch(2, seed=0)
    >>> batch.inputs.tolist(), batch.targets[:, 2].tolist()
    ([[1, 4, 5], [2, 2, 5]], [0, 4])
    """

    name: ClassVar[str] = "modular"
    corruptions: ClassVar[tuple[str, ...]] = ("a", "b")
    trivial = ("uniform", "memoriser")

    p: int = Field(59, ge=3, description="modulus")
    fraction: float = Field(0.4, gt=0, lt=1, description="share of examples in the training set")
    split: int = Field(0, description="seed of the split")
    watched: int = Field(512, ge=0, description="test examples that ride along in training")

    @model_validator(mode="after")
    def _fits(self) -> ModularAddition:
        if not 0 < self.training_size < self.p**2:
            raise ValueError(f"fraction={self.fraction} of {self.p**2} examples leaves nothing to train on or to test")
        return self

    @property
    def training_size(self) -> int:
        """Examples in the training set."""
        return round(self.fraction * self.p**2)

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`a`, `b`, `answer`; `carry`, whether a + b reaches p; `is_training`. Each -1 before it can be known."""
        return {"a": self.p, "b": self.p, "answer": self.p, "carry": 2, "is_training": 2}

    @cached_property
    def training_set(self) -> Bool[Tensor, "p p"]:
        """Whether a (row) plus b (column) is in the training set."""
        order = torch.randperm(self.p**2, generator=generator(self.split, self.name, "split"))
        chosen = torch.zeros(self.p**2, dtype=torch.bool)
        chosen[order[: self.training_size]] = True
        return chosen.view(self.p, self.p)

    def table(self) -> Batch:
        """All p * p examples; example `a * p + b` asks for a + b."""
        return self._batch(torch.cartesian_prod(torch.arange(self.p), torch.arange(self.p)))

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw examples from training and test set alike, with replacement; all are scored."""
        return self._batch(torch.randint(self.p, (batch, 2), generator=generator(seed, self.name, "batch")))

    def training_batch(self, batch: int, seed: int, step: int) -> Batch:
        """The training set, scored, and the watched test examples, not scored.

        Args:
            batch: Fewer than `training_size` draws so many without replacement; otherwise the training set is whole.
            seed: Of that draw.
            step: Of that draw.
        """
        if batch >= self.training_size:
            return self._whole
        drawn = torch.randperm(self.training_size, generator=generator(seed, self.name, "data", step))[:batch]
        return self._whole[torch.cat([drawn, torch.arange(self.training_size, len(self._whole))])]

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """The `=` of examples in the training set, `train`, and of the others, `test`."""
        known = self.is_training(batch)[:, None]
        ends = batch.targets >= 0
        return {"train": ends & known, "test": ends & ~known}

    def is_training(self, batch: Batch) -> Bool[Tensor, " batch"]:
        """Which examples are in the training set."""
        return self.training_set.to(batch.device)[batch.inputs[:, 0], batch.inputs[:, 1]]

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw test examples with twins, test examples too, in which one summand is another.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `a` or `b`, or `all` mixed.

        Raises:
            ConfigError: If the corruption is unknown, or hardly anything is left to test.
        """
        column = 0 if corruption == "a" else 1
        gen = generator(seed, self.name, "pair")
        # Rows of `free` are values of the summand that changes.
        free = ~(self.training_set if column == 0 else self.training_set.T)
        fits = free & (free.sum(0) > 1)
        if not bool(fits.any()):
            raise ConfigError(f"{self!r} has no two test examples that share a summand: lower the fraction")
        places = fits.nonzero()
        changing, fixed = places[torch.randint(len(places), (batch,), generator=gen)].unbind(1)
        others = free.T[fixed].float().scatter(1, changing[:, None], 0)
        changed = torch.multinomial(others, 1, generator=gen)[:, 0]
        order = [0, 1] if column == 0 else [1, 0]
        clean, twin = (torch.stack([one, fixed], 1)[:, order] for one in (changing, changed))
        right, wrong = (rows.sum(1) % self.p for rows in (clean, twin))
        return Pair(self._batch(clean, wrong), self._batch(twin, right))

    def predictors(self) -> dict[str, Predictor]:
        """`uniform`; `memoriser`, right on the training set and uniform elsewhere; `addition`, always right."""
        return {"uniform": Uniform(self.p), "memoriser": Memoriser(self), "addition": Addition(self.p)}

    def preset(self) -> Preset:
        """One layer with an MLP and no norm, strong decay, the whole training set at every step.

        Training loss falls below 0.1 at step 150, test loss at 875-975 (three seeds, each with a split of its own;
        1,150-1,250 in three others); three or four key frequencies hold .93-.98 of the logits' variance.
        """
        model = dict(
            n_layers=1, n_heads=4, d_model=64, d_mlp=128, d_vocab=self.p + 1, n_ctx=3, d_vocab_out=self.p,
            normalization="none", attn_bias=False,
        )  # fmt: skip
        training = dict(steps=2000, batch_size=self.training_size, lr=3e-3, weight_decay=2.0, beta1=0.9, beta2=0.98)
        return Preset(model, training)

    @cached_property
    def _whole(self) -> Batch:
        held_out = (~self.training_set).nonzero()
        order = torch.randperm(len(held_out), generator=generator(self.split, self.name, "watched"))
        whole = self._batch(torch.cat([self.training_set.nonzero(), held_out[order[: self.watched]]]))
        return replace(whole, scored=whole.scored & self.is_training(whole)[:, None])

    def _batch(self, summands: Summands, wrong: Int[Tensor, " batch"] | None = None) -> Batch:
        """Examples of these summands, all scored."""
        a, b = summands.unbind(1)
        total = a + b
        known = self.training_set[a, b].long()
        nothing = torch.full_like(a, -1)
        inputs = torch.stack([a, b, torch.full_like(a, self.p)], 1)
        targets = torch.stack([nothing, nothing, total % self.p], 1)
        late = {"b": b, "answer": total % self.p, "carry": (total >= self.p).long(), "is_training": known}
        return Batch(
            inputs,
            targets,
            targets >= 0,
            wrong=None if wrong is None else torch.stack([nothing, nothing, wrong], 1),
            roles={name: torch.full_like(a, place) for place, name in enumerate(("a", "b", "equals"))},
            latents={
                "a": torch.stack([a, a, a], 1),
                **{name: torch.stack([nothing, value, value], 1) for name, value in late.items()},
            },
        )


@dataclass(frozen=True)
class Addition:
    """The right sum at `=`; uniform elsewhere."""

    p: int

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq p"]:
        total = (batch.inputs[:, 0] + batch.inputs[:, 1]) % self.p
        ends = (batch.inputs == self.p)[..., None]
        return log_shares(one_hot(total, self.p)[:, None].float() * ends)


@dataclass(frozen=True)
class Memoriser:
    """The right sum of training examples, and no idea of any other."""

    task: ModularAddition

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq p"]:
        known = self.task.is_training(batch)[:, None, None]
        p = self.task.p
        return torch.where(known, Addition(p)(batch), Uniform(p)(batch))
