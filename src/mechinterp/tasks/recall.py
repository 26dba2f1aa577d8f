"""Multi-query associative recall: pairs of keys and values, then keys that ask for their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from mechinterp.core import Batch, Pair, generator, uniform
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.predictors import Uniform, log_shares
from mechinterp.tasks.common.tokens import exchange, previous_token

_Tokens = Int[Tensor, "batch seq"]
BLANK = 0


class Recall(Task):
    """Pairs of a key and its value, then the keys once more in another order; at each, say its value.

    One sequence of three pairs; capitals are keys, small letters values, `.` blanks::

        position     0  1  2  3  4  5  6  7  8  9 10 11
        input        A  u  B  v  C  w  B  A  .  .  C  .
        target                         v  u        w
        scored       .  .  .  .  .  .  *  *  .  .  *  .

    A sequence has as many pairs as one of `loads`, drawn for it. Each key is asked once, at a place drawn from a power
    law: most queries come soon, some late. Answers are not shown, and positions after a query say nothing.

    A pair scores one query. With the query at 7, its roles are `key` = 0, `value` = 1, `query` = 7. The corruptions::

        value        A  x  B  v  C  w  B  A  .  .  C  .     the value becomes one used nowhere else
        key          C  u  B  v  A  w  B  A  .  .  C  .     the key changes places with another, `other_key` = 4: the
                                                            answer is now at `other_value` = 5
        query        A  u  B  v  C  w  B  C  .  .  C  .     the query asks for another key, likewise

    The last two leave the values in context as they were, so a model that does not match keys sees no difference.

    Args:
        vocab: Tokens: a blank (0), then keys, then values (the upper half).
        seq_len: Positions.
        loads: Numbers of pairs; every sequence draws one of them.
        power: The g-th place after the pairs is drawn with weight `g ** (power - 1)`; 1 is even.

    Source: Arora et al. 2024 (multi-query associative recall; `power` is their 0.01). Differs: places are single
    positions, any key may be asked at any of them alike (there keys of early pairs tend to be asked first), and what
    is between the queries is blank.

    >>> batch = Recall(vocab=12, seq_len=10, loads=(2,)).batch(1, seed=0)
    >>> batch.inputs[0].tolist(), batch.targets[0].tolist()
    ([1, 9, 4, 10, 4, 0, 1, 0, 0, 0], [-1, -1, -1, -1, 10, -1, 9, -1, -1, -1])
    """

    name: ClassVar[str] = "recall"
    corruptions: ClassVar[tuple[str, ...]] = ("value", "key", "query")
    trivial = ("uniform", "values_in_context")

    vocab: int = Field(64, ge=6, description="tokens: a blank, keys and values")
    seq_len: int = Field(64, ge=6, description="positions")
    loads: tuple[int, ...] = Field((8, 16), min_length=1, description="numbers of pairs in a sequence")
    power: float = Field(0.01, gt=0, description="power law of the queries' places; 1 is even")

    @model_validator(mode="after")
    def _fits(self) -> Recall:
        if min(self.loads) < 2 or len(set(self.loads)) < len(self.loads):
            raise ValueError(f"loads={self.loads}: give different numbers, each 2 or more")
        most = max(self.loads)
        if 3 * most > self.seq_len:
            raise ValueError(f"{most} pairs and their queries need {3 * most} positions, seq_len={self.seq_len}")
        if most > self.keys:
            raise ValueError(f"{most} pairs need {most} keys, vocab={self.vocab} has {self.keys}")
        return self

    @property
    def keys(self) -> int:
        """Keys of the vocabulary: tokens 1 to `keys`; the higher tokens are values."""
        return self.vocab - self.vocab // 2 - 1

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`previous_token`; at queries `answer` and `pair`, the number of the pair asked for; `is_query`."""
        return {"previous_token": self.vocab, "answer": self.vocab, "pair": max(self.loads), "is_query": 2}

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; queries are scored, and nothing else has a target."""
        inputs = self._draw(batch, generator(seed, self.name, "batch"))
        answer, pair = read_answers(inputs, self.keys)
        return Batch(inputs, answer, pair >= 0, latents=_latents(inputs, answer, pair))

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """Scored positions by the number of pairs in the sequence: `load_8`, ..."""
        load = (batch.inputs > self.keys).sum(1, keepdim=True)
        return {f"load_{number}": batch.scored & (load == number) for number in self.loads}

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins in which one query has another answer.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `value`, `key` or `query`, or `all` mixed; the class shows all.

        Raises:
            ConfigError: If the corruption is unknown.
        """
        gen = generator(seed, self.name, "pair")
        inputs = self._draw(batch, gen)
        _, pair = read_answers(inputs, self.keys)
        query = torch.multinomial((pair >= 0).float(), 1, generator=gen)
        key = 2 * pair.gather(1, query)
        if corruption == "value":
            unused = torch.ones(batch, self.vocab, dtype=torch.float32).scatter(1, inputs, 0)
            unused[:, : self.keys + 1] = 0
            swapped = inputs.scatter(1, key + 1, torch.multinomial(unused, 1, generator=gen))
            return self._make_pair(inputs, swapped, query, {"key": key, "value": key + 1})
        others = (_in_pairs(inputs, self.keys) & (torch.arange(self.seq_len) % 2 == 0)).float().scatter(1, key, 0)
        other = torch.multinomial(others, 1, generator=gen)
        if corruption == "key":
            swapped = exchange(inputs, key, other)
        else:
            swapped = inputs.scatter(1, query, inputs.gather(1, other))
        roles = {"key": key, "value": key + 1, "other_key": other, "other_value": other + 1}
        return self._make_pair(inputs, swapped, query, roles)

    def predictors(self) -> dict[str, Predictor]:
        """`uniform`, `values_in_context` (blind to the query: right once in as many times as pairs), `lookup`."""
        return {
            "uniform": Uniform(self.vocab),
            "values_in_context": ValuesInContext(self.vocab, self.keys),
            "lookup": Lookup(self.vocab, self.keys),
        }

    def preset(self) -> Preset:
        """Two attention-only layers of one head, without norm.

        Both loads stay above .99 from step 400-600 on and end at .997 or more (five seeds); with one layer
        they end at .12-.14 and .06-.07, where a model that is blind to the query gets 1/8 and 1/16 (three seeds).
        """
        model = dict(
            n_layers=2, n_heads=1, d_model=64, d_vocab=self.vocab, n_ctx=self.seq_len, positions="learned",
            normalization="none", attn_bias=False, attn_scale=4.0,
        )  # fmt: skip
        training = dict(steps=1500, batch_size=32, lr=3e-3, weight_decay=0.01, beta1=0.9, beta2=0.98)
        return Preset(model, training)

    def _draw(self, batch: int, gen: torch.Generator) -> _Tokens:
        most = max(self.loads)
        which = torch.randint(len(self.loads), (batch,), generator=gen)
        missing = torch.arange(most) >= torch.tensor(self.loads)[which, None]
        key = uniform(gen, batch, self.keys).argsort(1)[:, :most] + 1
        value = uniform(gen, batch, self.vocab // 2).argsort(1)[:, :most] + self.keys + 1
        pairs = torch.stack([key, value], -1).masked_fill(missing[..., None], BLANK).flatten(1)
        # One more column takes the queries that a sequence with fewer pairs does not have.
        tokens = torch.nn.functional.pad(pairs, (0, self.seq_len + 1 - 2 * most), value=BLANK)
        order = uniform(gen, batch, most).masked_fill(missing, 2).argsort(1)
        place = self._draw_places(which, gen)[:, :most].masked_fill(missing, self.seq_len)
        return tokens.scatter(1, place, key.gather(1, order))[:, :-1]

    def _draw_places(self, which: Int[Tensor, " batch"], gen: torch.Generator) -> _Tokens:
        """Positions after the pairs in the order in which they are drawn, without replacement: a race of clocks."""
        ticks = -uniform(gen, len(which), self.seq_len).log()
        return (ticks * self._delays[which]).argsort(1)

    @cached_property
    def _delays(self) -> Float[Tensor, "load seq"]:
        """For each load the inverse weight of each position as a query's place; infinite among the pairs."""
        place = torch.arange(self.seq_len) - 2 * torch.tensor(self.loads)[:, None] + 1
        return (place.clamp(min=1) ** (1 - self.power)).masked_fill(place < 1, float("inf"))

    def _make_pair(self, inputs: _Tokens, swapped: _Tokens, query: Tensor, roles: dict[str, Tensor]) -> Pair:
        scored = torch.zeros_like(inputs, dtype=torch.bool).scatter(1, query, True)
        places = {name: place[:, 0] for name, place in (roles | {"query": query}).items()}
        (right, first), (wrong, second) = read_answers(inputs, self.keys), read_answers(swapped, self.keys)
        clean = Batch(inputs, right, scored, torch.where(scored, wrong, -1), places, _latents(inputs, right, first))
        twin = Batch(swapped, wrong, scored, torch.where(scored, right, -1), places, _latents(swapped, wrong, second))
        return Pair(clean, twin)


@dataclass(frozen=True)
class ValuesInContext:
    """Every value so far alike: all that a model knows which cannot match the query to its key."""

    vocab: int
    keys: int

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq vocab"]:
        counts = one_hot(batch.inputs, self.vocab).cumsum(1).float()
        counts[..., : self.keys + 1] = 0
        return log_shares(counts)


@dataclass(frozen=True)
class Lookup:
    """The value of the queried key; uniform where nothing is asked."""

    vocab: int
    keys: int

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq vocab"]:
        answer, pair = read_answers(batch.inputs, self.keys)
        return log_shares(one_hot(answer.clamp(min=0), self.vocab).float() * (pair >= 0)[..., None])


def read_answers(inputs: _Tokens, keys: int) -> tuple[_Tokens, _Tokens]:
    """At each query the value of its key and the number of the pair, -1 elsewhere; read off the tokens."""
    inside = _in_pairs(inputs, keys)
    key = inputs.masked_fill(inputs > keys, BLANK)
    position = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
    stands = torch.full((len(inputs), keys + 1), -1, device=inputs.device)
    stands.scatter_(1, key.masked_fill(~inside, BLANK), position)
    stands[:, BLANK] = -1
    place = stands.gather(1, key.masked_fill(inside, BLANK))
    value = inputs.gather(1, (place + 1).clamp(max=inputs.shape[1] - 1))
    return value.masked_fill(place < 0, -1), place // 2


def _in_pairs(inputs: _Tokens, keys: int) -> Bool[Tensor, "batch seq"]:
    """Values occur in pairs only, so their number says how long the pairs are."""
    return torch.arange(inputs.shape[1], device=inputs.device) < 2 * (inputs > keys).sum(1, keepdim=True)


def _latents(inputs: _Tokens, answer: _Tokens, pair: _Tokens) -> dict[str, Tensor]:
    return {"previous_token": previous_token(inputs), "answer": answer, "pair": pair, "is_query": (pair >= 0).long()}
