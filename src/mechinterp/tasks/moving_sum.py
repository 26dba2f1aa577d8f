"""Moving sum: at each step the sum of the last few numbers, modulo p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot, pad

from mechinterp.core import Batch, Pair, generator
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.predictors import Uniform, log_shares
from mechinterp.tasks.common.tokens import previous_token

_Numbers = Int[Tensor, "batch numbers"]
_Tokens = Int[Tensor, "batch seq"]


class MovingSum(Task):
    """Numbers, a `=`, and then the sum of each number and those just before it, modulo p.

    One sequence of four numbers with p = 17 and a window of 2::

        position     0  1  2  3  4  5  6  7
        input        3 16  9  4  =  3  2  8
        target                   3  2  8 13
        scored       .  .  .  .  *  *  *  *

    Sum j stands at position `numbers + j` and adds up the numbers at j, j - 1, ... as far as the window reaches and
    numbers exist; so a head that does the task looks back `window_offsets` positions from each sum, whatever stands
    there. The sum before is the input at each position: the model is shown the right ones.

    A pair scores one sum with a whole window, and changes one number. With the third sum, its roles are `oldest` = 1,
    `newest` = 2, `query` = 6. Sums that are shown stay as they are, so that only numbers tell the answer::

        oldest       3 11  9  4  =  3  2  8     the oldest number of the window is another: the answer is now 3
        newest       3 16  1  4  =  3  2  8     the newest is another: the answer is now 0

    Args:
        p: The modulus; numbers are drawn from 1 to p - 1, and `=` is token p. Outputs are the p residues.
        numbers: In a sequence.
        window: How many numbers a sum adds up.

    Source: arXiv 2506.13688 (moving window sum; p = 17, 16 numbers, window 2). Differs: the loss counts sums only
    (there the numbers too, which cannot be told beforehand); where a window is not whole, numbers that exist are added
    (there the number alone, which is the same for a window of 2).

    >>> batch = MovingSum(p=17, numbers=4).batch(1, seed=0)
    >>> batch.inputs[0].tolist(), batch.targets[0].tolist()
    ([4, 11, 15, 7, 17, 4, 15, 9], [-1, -1, -1, -1, 4, 15, 9, 5])
    """

    name: ClassVar[str] = "moving_sum"
    corruptions: ClassVar[tuple[str, ...]] = ("oldest", "newest")
    trivial = ("uniform", "first_only")

    p: int = Field(17, ge=3, description="modulus")
    numbers: int = Field(16, ge=2, description="numbers in a sequence")
    window: int = Field(2, ge=2, description="numbers that a sum adds up")

    @model_validator(mode="after")
    def _fits(self) -> MovingSum:
        if self.window > self.numbers:
            raise ValueError(f"window={self.window} is longer than numbers={self.numbers}")
        return self

    @property
    def window_offsets(self) -> tuple[int, ...]:
        """How many positions before a sum its numbers stand, the newest first."""
        return tuple(self.numbers + back for back in range(self.window))

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`previous_token`; at sums `newest` and `oldest` number, `answer`, `carry` (how often p went into it)."""
        return {
            "previous_token": self.p + 1,
            "newest": self.p,
            "oldest": self.p,
            "answer": self.p,
            "carry": self.window,
        }

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; every sum is scored, and nothing else has a target."""
        numbers = torch.randint(1, self.p, (batch, self.numbers), generator=generator(seed, self.name, "batch"))
        total = self._totals(numbers)
        equals = torch.full_like(numbers[:, :1], self.p)
        inputs = torch.cat([numbers, equals, total[:, :-1] % self.p], 1)
        return self._batch(inputs, torch.ones_like(numbers, dtype=torch.bool))

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """Sums of a whole window, `whole`, and those before them, `partial`, which add fewer numbers."""
        place = torch.arange(batch.seq_len, device=batch.device)
        whole = place >= self.numbers + self.window - 1
        return {"whole": batch.scored & whole, "partial": batch.scored & ~whole}

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins in which one number of one sum's window is another.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `oldest` or `newest`, or `all` mixed.

        Raises:
            ConfigError: If the corruption is unknown.
        """
        gen = generator(seed, self.name, "pair")
        clean = self.batch(batch, int(torch.randint(2**62, (1,), generator=gen))).inputs
        newest = torch.randint(self.window - 1, self.numbers, (batch, 1), generator=gen)
        oldest = newest - self.window + 1
        changed = oldest if corruption == "oldest" else newest
        # Another number from 1 to p - 1: the sums differ by less than p, so modulo p too.
        step = torch.randint(1, self.p - 1, (batch, 1), generator=gen)
        twin = clean.scatter(1, changed, (clean.gather(1, changed) - 1 + step) % (self.p - 1) + 1)
        scored = torch.zeros(batch, self.numbers, dtype=torch.bool).scatter(1, newest, True)
        places = {"oldest": oldest, "newest": newest, "query": newest + self.numbers}
        roles = {name: place[:, 0] for name, place in places.items()}
        return Pair(self._batch(clean, scored, twin, roles), self._batch(twin, scored, clean, roles))

    def predictors(self) -> dict[str, Predictor]:
        """`uniform`; `first_only`, right at the first sum alone, as on the plateau; `moving_sum`, always right."""
        return {
            "uniform": Uniform(self.p),
            "first_only": WindowSum(self, whole=False),
            "moving_sum": WindowSum(self),
        }

    def preset(self) -> Preset:
        """One layer of one linear-attention head with an MLP."""
        model = dict(
            n_layers=1, n_heads=1, d_model=256, d_mlp=1024, act_fn="gelu_new", d_vocab=self.p + 1, d_vocab_out=self.p,
            n_ctx=2 * self.numbers, attention="linear", init_scale=0.32,
        )  # fmt: skip
        return Preset(model, dict(steps=400, batch_size=256, lr=1e-4, beta2=0.999))

    def sums(self, inputs: _Tokens) -> _Numbers:
        """The sum that is right at each position from `=` on, read off the numbers."""
        return self._totals(inputs[:, : self.numbers]) % self.p

    def _totals(self, numbers: _Numbers) -> _Numbers:
        so_far = pad(numbers.cumsum(1), (self.window, 0))
        return so_far[:, self.window :] - so_far[:, : -self.window]

    def _batch(
        self,
        inputs: _Tokens,
        scored: Tensor,
        twin: _Tokens | None = None,
        roles: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """A batch whose sums are scored where `scored` `[batch, numbers]` says so."""
        numbers, total = inputs[:, : self.numbers], self._totals(inputs[:, : self.numbers])
        oldest = pad(numbers, (self.window - 1, 0), value=-1)[:, : self.numbers]
        late = {"newest": numbers, "oldest": oldest, "answer": total % self.p, "carry": total // self.p}
        latents = {"previous_token": previous_token(inputs)}
        latents |= {name: self._at_sums(value) for name, value in late.items()}
        wrong = None if twin is None else self._at_sums(torch.where(scored, self.sums(twin), -1))
        targets = self._at_sums(torch.where(scored, total % self.p, -1))
        return Batch(inputs, targets, targets >= 0, wrong, roles or {}, latents)

    def _at_sums(self, values: _Numbers) -> _Tokens:
        return pad(values, (self.numbers, 0), value=-1)


@dataclass(frozen=True)
class WindowSum:
    """The right sum from `=` on; uniform before.

    Args:
        task: Says what is summed.
        whole: Whether all sums are known, or the first alone, which is a copy of a number.
    """

    task: MovingSum
    whole: bool = True

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq p"]:
        start = self.task.numbers
        counts = one_hot(self.task.sums(batch.inputs), self.task.p).float()
        if not self.whole:
            counts[:, 1:] = 0
        return log_shares(pad(counts, (0, 0, start, 0)))
