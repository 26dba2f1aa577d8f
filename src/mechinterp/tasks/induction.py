"""Induction: what followed this token last time follows it again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field, model_validator
from torch import Tensor

from mechinterp.core import Batch, Pair, generator, uniform
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.draws import collect
from mechinterp.tasks.common.predictors import OneTokenMatch, PositionOnly, SeenTokens, Uniform
from mechinterp.tasks.common.twins import change_successor, make_pair, move_match, single_matches, with_latents

_Tokens = Int[Tensor, "batch tokens"]
_Mask = Bool[Tensor, "batch seq"]


class Induction(Task):
    """Random tokens in which a random segment recurs at random places; predict the recurring tokens.

    One sequence of `segment=3, repeats=2`; capitals are the segment, small letters fresh tokens::

        position     0  1  2  3  4  5  6  7  8
        input        u  A  B  C  v  w  A  B  C
        target       A  B  C  v  w  A  B  C  x
        scored       .  .  .  .  .  .  *  *  .     repeated tokens after the first of each repeat

    A pair scores one query whose token occurred exactly once before. With the query at 6, its roles are
    `first_A` = 1, `first_B` = 2, `second_A` = 6 (scored) and `answer` = 7, where the answer then stands (-1 beyond
    the end): it comes after the query, so no patch there can matter. The corruptions::

        successor    u  A  Q  C  v  w  A  B  C     first_B becomes a token Q used nowhere else: the answer is now Q
        match        u  v  B  C  A  w  A  B  C     first_A changes places with another token, `other_A` = 4: the
                                                   answer is now the token at `other_B` = 5

    Distances between the copies differ from sequence to sequence (all layouts are equally likely), since with a fixed
    distance models learn to copy from a position and no induction head forms.

    In the other flavour, `successor`, each sequence draws another cycle through `symbols` random tokens; a walk
    follows the cycle and jumps to a random one of them with probability `restart`. Scored are steps along the cycle
    that were seen before.

    Args:
        vocab: Tokens.
        seq_len: Positions.
        flavour: `segment` or `successor`.
        segment: Length of the recurring segment.
        repeats: How often it occurs.
        min_gap: Fewest fresh tokens between two copies.
        max_gap: Most fresh tokens between two copies; None for no limit.
        replace: Draw tokens with replacement; then tokens also match by chance.
        symbols: Tokens on the cycle (flavour `successor`).
        restart: Probability of a jump (flavour `successor`).

    Source: Olsson et al. 2022, repeated random sequences. Differs: the repeats lie at random distances.

    >>> task = Induction(vocab=16, seq_len=9, segment=3, repeats=2)
    >>> batch = task.batch(1, seed=0)
    >>> batch.inputs[0].tolist(), batch.scored[0].nonzero().flatten().tolist()
    ([1, 10, 3, 12, 5, 10, 3, 12, 11], [5, 6])
    """

    name: ClassVar[str] = "induction"
    corruptions: ClassVar[tuple[str, ...]] = ("successor", "match")
    trivial = ("uniform", "seen_tokens", "position_only")

    vocab: int = Field(64, ge=2, description="tokens")
    seq_len: int = Field(64, ge=4, description="positions")
    flavour: Literal["segment", "successor"] = Field(
        "segment", description="what recurs: a segment, or steps of a walk"
    )
    segment: int = Field(16, ge=2, description="length of the recurring segment")
    repeats: int = Field(3, ge=2, description="how often the segment occurs")
    min_gap: int = Field(0, ge=0, description="fewest fresh tokens between two copies")
    max_gap: int | None = Field(None, ge=0, description="most fresh tokens between two copies; none for no limit")
    replace: bool = Field(False, description="draw tokens with replacement")
    symbols: int = Field(16, ge=3, description="tokens on the walk's cycle")
    restart: float = Field(0.25, ge=0, lt=1, description="probability that the walk jumps")

    @model_validator(mode="after")
    def _fits(self) -> Induction:
        if self.flavour == "successor":
            if self.symbols > self.vocab:
                raise ValueError(f"symbols={self.symbols} do not fit into vocab={self.vocab}")
            return self
        least = self.repeats * self.segment + (self.repeats - 1) * self.min_gap
        if least > self.seq_len + 1:
            raise ValueError(
                f"repeats={self.repeats} of segment={self.segment} with min_gap={self.min_gap} need {least} positions, "
                f"seq_len={self.seq_len} leaves {self.seq_len + 1} (inputs and the last target)"
            )
        if self.max_gap is not None and self.max_gap < self.min_gap:
            raise ValueError(f"max_gap={self.max_gap} is below min_gap={self.min_gap}")
        distinct = self.segment + self._fresh
        if not self.replace and distinct > self.vocab:
            raise ValueError(f"{distinct} different tokens are needed and vocab={self.vocab}; or set replace=True")
        return self

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`previous_token`; `induction_target`, what followed the last earlier copy; `is_repeat`, if there is one."""
        return {"previous_token": self.vocab, "induction_target": self.vocab, "is_repeat": 2}

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; every position has a target, repeats are scored."""
        tokens, scored = self._draw(batch, generator(seed, self.name, "batch"))
        return with_latents(tokens[:, :-1], tokens[:, 1:], scored)

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """`repeat`: the scored positions. `fresh`: those whose target occurs for the first time."""
        known = (batch.inputs[:, None, :] == batch.targets[:, :, None]).tril().any(-1)
        return {"repeat": batch.scored, "fresh": ~known}

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins in which the earlier copy says something else, or stands elsewhere.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `successor` or `match`, or `all` mixed; the class shows both.

        Raises:
            ConfigError: If the corruption is unknown, or these settings leave (almost) no sequence that allows it.
        """
        gen = generator(seed, self.name, "pair")

        def draw() -> tuple[Tensor, Tensor, Tensor]:
            tokens, scored = self._draw(batch, gen)
            allowed = single_matches(tokens, scored)
            if corruption == "successor":
                return change_successor(tokens, allowed, self.vocab, gen)
            return move_match(tokens, allowed, gen)

        failure = f"{self!r} leaves too few sequences for corruption '{corruption}': give it more vocabulary or room"
        return make_pair(*collect(draw, batch, failure))

    def predictors(self) -> dict[str, Predictor]:
        """`uniform`, `seen_tokens`, `one_token_match` (the ideal induction head), `position_only`."""
        return {
            "uniform": Uniform(self.vocab),
            "seen_tokens": SeenTokens(self.vocab),
            "one_token_match": OneTokenMatch(self.vocab),
            "position_only": PositionOnly(self, self.vocab),
        }

    def preset(self) -> Preset:
        """Two attention-only layers of four heads.

        `segment`: loss on repeats falls below 2.0 at steps 269-285 and below 0.1 at 330-362, to about 0.003 (seven
        seeds). `successor`: a plateau near 3.5 until about step 1,100, then 1.0 at 1,800 (two seeds).
        """
        model: dict[str, object] = dict(
            n_layers=2, n_heads=4, d_model=64, d_vocab=self.vocab, n_ctx=self.seq_len, normalization="LN",
            attn_bias=False,
        )  # fmt: skip
        training: dict[str, object] = dict(batch_size=32, weight_decay=0.1, beta1=0.9, beta2=0.98)
        if self.flavour == "segment":
            model |= dict(positions="rotary", rotary_base=100.0)
            training |= dict(steps=1200, lr=3e-3, loss_on="scored")
        else:
            model |= dict(positions="learned")
            training |= dict(steps=2000, lr=1e-3, loss_on="all")
        return Preset(model, training)

    def _draw(self, batch: int, gen: torch.Generator) -> tuple[_Tokens, _Mask]:
        """Tokens with the last target, `[batch, seq + 1]`, and which of the targets are scored, `[batch, seq]`."""
        if self.flavour == "successor":
            return self._draw_walk(batch, gen)
        copy, place = self._draw_layout(batch, gen)
        inside = copy >= 0
        fresh = (~inside).cumsum(1) - 1 + self.segment
        tokens = self._draw_alphabet(batch, gen).gather(1, torch.where(inside, place, fresh))
        return tokens, (copy[:, 1:] >= 1) & (copy[:, 1:] == copy[:, :-1])

    def _draw_alphabet(self, batch: int, gen: torch.Generator) -> Int[Tensor, "batch letters"]:
        """Which token stands for which letter: segment, then fresh ones."""
        if self.replace:
            return torch.randint(self.vocab, (batch, self.segment + self._fresh), generator=gen)
        return uniform(gen, batch, self.vocab).argsort(1)

    def _draw_layout(self, batch: int, gen: torch.Generator) -> tuple[_Tokens, _Tokens]:
        """Number of the copy at each position (-1 in gaps), and the place within it."""
        left = torch.full((batch,), self._fresh)
        gaps = []
        for table in self._gap_tables:
            gaps.append(torch.multinomial(table[left], 1, generator=gen)[:, 0])
            left = left - gaps[-1]
        before = (torch.rand(batch, generator=gen, dtype=torch.float64) * (left + 1)).long()
        starts = torch.stack([before, *gaps], 1).cumsum(1) + self.segment * torch.arange(self.repeats)
        since = torch.arange(self.seq_len + 1) - starts[..., None]
        inside = (since >= 0) & (since < self.segment)
        number = torch.arange(self.repeats)[:, None]
        copy = torch.where(inside, number, -1).amax(1)
        return copy, torch.where(inside, since, 0).sum(1)

    @property
    def _fresh(self) -> int:
        return self.seq_len + 1 - self.repeats * self.segment

    @cached_property
    def _gap_tables(self) -> list[Tensor]:
        """For each gap in turn, the weight of its size (column) given how many fresh tokens are left (row).

        The weight counts the layouts of what then remains, so all layouts together are equally likely; r tokens
        before and after the copies can be split in r + 1 ways.
        """
        total = self._fresh
        top = total if self.max_gap is None else self.max_gap
        ways = torch.arange(1, total + 2, dtype=torch.float64)
        tables = []
        for _ in range(self.repeats - 1):
            rest = torch.arange(total + 1)[:, None] - torch.arange(total + 1)
            size = torch.arange(total + 1)
            allowed = (rest >= 0) & (size >= self.min_gap) & (size <= top)
            table = torch.where(allowed, ways[rest.clamp(min=0)], 0)
            tables.insert(0, table)
            ways = table.sum(1)
        return tables

    def _draw_walk(self, batch: int, gen: torch.Generator) -> tuple[_Tokens, _Mask]:
        """The place on the cycle is where the last jump landed plus the steps since then."""
        length = self.seq_len + 1
        cycle = uniform(gen, batch, self.vocab).argsort(1)[:, : self.symbols]
        jump = uniform(gen, batch, length) < self.restart
        jump[:, 0] = True
        landed = torch.randint(self.symbols, (batch, length), generator=gen)
        last = torch.where(jump, torch.arange(length), 0).cummax(1).values
        place = (landed.gather(1, last) + torch.arange(length) - last) % self.symbols
        tokens = cycle.gather(1, place)
        along = (place[:, 1:] - place[:, :-1]) % self.symbols == 1
        earlier = (tokens[:, :-1, None] == tokens[:, None, :-1]).tril(-1)
        return tokens, along & (earlier & along[:, None, :]).any(-1)
