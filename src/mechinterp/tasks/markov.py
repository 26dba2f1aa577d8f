"""Markov chains in context: each sequence has another chain, to be estimated from that sequence alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from mechinterp.core import Batch, ConfigError, Pair, exponential, generator, uniform
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.draws import collect
from mechinterp.tasks.common.predictors import Uniform
from mechinterp.tasks.common.tokens import previous_token

_Tokens = Int[Tensor, "batch tokens"]
_LogProbs = Float[Tensor, "batch seq states"]


class MarkovChains(Task):
    """Each sequence walks a Markov chain that was drawn for it alone; predict the next state at every position.

    One sequence of three states; its chain goes from A mostly to B, and that can only be read off the sequence::

        position     0  1  2  3  4  5  6  7  8  9 10 11
        input        A  B  C  B  B  A  B  C  C  A  C  A
        target       B  C  B  B  A  B  C  C  A  C  A  B
        scored       *  *  *  *  *  *  *  *  *  *  *  *

    In-context counts at 11: A was followed by B, B, C. Bayes-optimal is (count + 1) / (sum + states): B with 3/6.

    A pair scores the last position alone, role `query`, and holds it to the most frequent successor of its state
    (not to the state that the chain happened to go to), B here; in the twin that is another state, C. Neither is the
    query's state. Each state occurs as often in the twin, so only what followed A tells them apart. The corruptions::

        successor    A  C  C  B  B  A  B  B  C  A  C  A     successors B of A change places with as many C elsewhere:
                                                            A stands where it stood
        match        B  B  A  A  B  A  B  C  C  A  C  A     some A that B follows change places with states that C
                                                            follows: A stands elsewhere

    Role `last_state` is the last A whose successor counts otherwise in the twin (0 above), `last_successor` comes
    after it. Under `match` the last A that came is `other_state` (2 or 3, say) in the twin, before `other_successor`.

    Args:
        states: States of a chain, and tokens.
        seq_len: Positions.
        doubly_stochastic: Draw chains whose columns sum to 1 too (Dirichlet(1) mixtures of permutations). All their
            states are equally frequent in the long run, so unigram counts are worth nothing.

    Source: Edelman et al. 2024. Differs: the first state is uniform, not stationary, so that with rows from
    Dirichlet(1) the add-one bigram is exactly the Bayes-optimal predictor.

    >>> batch = MarkovChains(seq_len=8).batch(1, seed=0)
    >>> batch.inputs[0].tolist(), batch.targets[0].tolist()
    ([2, 2, 2, 2, 2, 0, 2, 2], [2, 2, 2, 2, 0, 2, 2, 0])
    """

    name: ClassVar[str] = "markov"
    corruptions: ClassVar[tuple[str, ...]] = ("successor", "match")
    trivial = ("uniform", "unigram")

    states: int = Field(3, ge=2, description="states of a chain")
    seq_len: int = Field(100, ge=4, description="positions")
    doubly_stochastic: bool = Field(False, description="draw chains that visit all states equally often")

    @model_validator(mode="after")
    def _fits(self) -> MarkovChains:
        if self.doubly_stochastic and self.states > 6:
            raise ValueError(
                f"states={self.states}: doubly stochastic chains mix all permutations, of at most 6 states"
            )
        return self

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`previous_token`; `to_0`, `to_1`, ...: the chain's probability of going there from the current state."""
        return {"previous_token": self.states, **{f"to_{state}": None for state in range(self.states)}}

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; every position is scored."""
        chains, tokens = self._draw(batch, generator(seed, self.name, "batch"))
        inputs = tokens[:, :-1]
        return Batch(inputs, tokens[:, 1:], torch.ones_like(inputs, dtype=torch.bool), latents=_latents(inputs, chains))

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins in which another state follows the last state most often.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `successor` or `match`, or `all` mixed; the class shows both.

        Raises:
            ConfigError: If the corruption is unknown, there are only two states, or sequences are too short.
        """
        if self.states < 3:
            raise ConfigError(
                "a pair exchanges two successors that are not the query's state: it needs states=3 or more"
            )
        gen = generator(seed, self.name, "pair")

        def draw() -> tuple[Tensor, ...]:
            chains, tokens = self._draw(batch, gen)
            return _change(tokens, chains, self.states, corruption, gen)

        failure = f"{self!r} draws too few sequences for corruption '{corruption}': make them longer"
        return _make_pair(*collect(draw, batch, failure), how=corruption)

    def predictors(self) -> dict[str, Predictor]:
        """`uniform`, `unigram`, `bigram` (Bayes-optimal unless doubly stochastic), `oracle` (knows the chain)."""
        return {
            "uniform": Uniform(self.states),
            "unigram": Unigram(self.states),
            "bigram": Bigram(self.states),
            "oracle": Oracle(self.states),
        }

    def preset(self) -> Preset:
        """Two attention-only layers of one head, small initial weights.

        KL(chain || model) ends at 1.16-1.19 times the bigram's; with one layer at 0.92-0.93 times the unigram's (four
        seeds). With initial weights of the usual size one seed of five ended at 1.9: its layer 0 attends to
        earlier copies of the current state instead of the previous token, and does not leave that again.
        """
        model = dict(
            n_layers=2, n_heads=1, d_model=32, d_vocab=self.states, n_ctx=self.seq_len, positions="learned",
            normalization="LN", attn_bias=False, init_scale=0.3,
        )  # fmt: skip
        training = dict(
            steps=1000, batch_size=32, lr=3e-3, weight_decay=0.01, beta1=0.9, beta2=0.98, lr_schedule="linear"
        )
        return Preset(model, training)

    def _draw(self, batch: int, gen: torch.Generator) -> tuple[Float[Tensor, "batch states states"], _Tokens]:
        """Chains, and walks of them with the last target, `[batch, seq + 1]`."""
        chains = self._draw_chains(batch, gen)
        # Where the walk goes from every state (axis 1) at every step (axis 2); all of these maps are then composed at
        # once, in log2(seq) rounds.
        chance = uniform(gen, batch, 1, 1, self.seq_len)
        maps = (chance >= chains.cumsum(-1)[:, :, :-1, None]).sum(2)
        reach = 1
        while reach < self.seq_len:
            maps[..., reach:] = maps[..., reach:].gather(1, maps[..., :-reach])
            reach *= 2
        first = torch.randint(self.states, (batch, 1), generator=gen)
        walked = maps.gather(1, first[..., None].expand(-1, -1, self.seq_len))[:, 0]
        return chains, torch.cat([first, walked], 1)

    def _draw_chains(self, batch: int, gen: torch.Generator) -> Float[Tensor, "batch states states"]:
        """Transition matrices; row: from, column: to. Normalised exponentials are Dirichlet(1)."""
        if self.doubly_stochastic:
            weight = exponential(gen, batch, len(self._permutations))
            return torch.einsum("bp,pij->bij", weight / weight.sum(-1, keepdim=True), self._permutations)
        weight = exponential(gen, batch, self.states, self.states)
        return weight / weight.sum(-1, keepdim=True)

    @cached_property
    def _permutations(self) -> Float[Tensor, "permutation states states"]:
        return torch.stack(
            [torch.eye(self.states, dtype=torch.float32)[list(order)] for order in permutations(range(self.states))]
        )


@dataclass(frozen=True)
class Unigram:
    """How often each state occurred up to here, with add-one smoothing."""

    states: int

    def __call__(self, batch: Batch) -> _LogProbs:
        return _smoothed(one_hot(batch.inputs, self.states).float().cumsum(1))


@dataclass(frozen=True)
class Bigram:
    """How often each state followed the current one so far, with add-one smoothing.

    The posterior mean of a transition row that was drawn from Dirichlet(1): no predictor has a lower expected loss.
    """

    states: int

    def __call__(self, batch: Batch) -> _LogProbs:
        return _smoothed(successors(batch.inputs, self.states))


@dataclass(frozen=True)
class Oracle:
    """The chain's own transition row, from the latents: its loss is the chain's entropy, below what can be learnt."""

    states: int

    def __call__(self, batch: Batch) -> _LogProbs:
        return torch.stack([batch.latents[f"to_{state}"] for state in range(self.states)], -1).clamp(min=1e-12).log()


def successors(tokens: Int[Tensor, "batch seq"], states: int) -> Float[Tensor, "batch seq states"]:
    """How often each state (last axis) has followed the current state up to each position."""
    earlier = (tokens[:, :, None] == tokens[:, None, :]).float().tril(-1)[:, :, :-1]
    return earlier @ one_hot(tokens[:, 1:], states).float()


def _smoothed(counts: Tensor) -> _LogProbs:
    return ((counts + 1) / (counts.sum(-1, keepdim=True) + counts.shape[-1])).log()


def _latents(inputs: _Tokens, chains: Float[Tensor, "batch states states"]) -> dict[str, Tensor]:
    rows = chains.gather(1, inputs[..., None].expand(-1, -1, chains.shape[-1]))
    return {
        "previous_token": previous_token(inputs),
        **{f"to_{state}": rows[..., state] for state in range(chains.shape[-1])},
    }


def _change(tokens: _Tokens, chains: Tensor, states: int, how: str, gen: torch.Generator) -> tuple[Tensor, ...]:
    """Twins, for the sequences that allow them: clean and corrupted inputs, [right, wrong], places, chains."""
    inputs = tokens[:, :-1]
    query = inputs[:, -1:]
    counts = successors(inputs, states)[:, -1]
    right = counts.argmax(-1, keepdim=True)
    wrong = torch.multinomial(torch.ones_like(counts).scatter(1, right, 0).scatter(1, query, 0), 1, generator=gen)
    # After so many exchanges the counts of right and wrong are exchanged exactly.
    number = (counts.gather(1, right) - counts.gather(1, wrong)).long()
    if how == "successor":
        after = torch.cat([torch.zeros_like(query, dtype=torch.bool), inputs[:, :-1] == query], 1)
        loses, gains = after & (inputs == right), ~after & (inputs == wrong)
    else:
        ahead = torch.cat([inputs[:, 1:], torch.full_like(query, -1)], 1)
        loses, gains = (inputs == query) & (ahead == right), (inputs != query) & (ahead == wrong)
    allowed = _leads(counts, right) & (right != query)[:, 0] & (gains.sum(1) >= number[:, 0])
    loses, gains = _some(loses, number, gen), _some(gains, number, gen)
    last = torch.stack([torch.where(mask, torch.arange(inputs.shape[1]), -1).amax(1) for mask in (loses, gains)], 1)
    parts = (inputs, _exchange(inputs, loses, gains), torch.cat([right, wrong], 1), last, chains)
    # Moving matches can break others beside them: count again.
    allowed = allowed & _leads(successors(parts[1], states)[:, -1], wrong)
    return tuple(part[allowed] for part in parts)


def _leads(counts: Tensor, state: Int[Tensor, "batch 1"]) -> Bool[Tensor, " batch"]:
    """Whether a state has a higher count than every other."""
    return counts.gather(1, state)[:, 0] > counts.scatter(1, state, -1).amax(1)


def _some(mask: Bool[Tensor, "batch seq"], number: Int[Tensor, "batch 1"], gen: torch.Generator) -> Tensor:
    """Keep `number` of the true entries of each row, all equally likely."""
    rank = uniform(gen, *mask.shape).masked_fill(~mask, 2).argsort(1).argsort(1)
    return mask & (rank < number)


def _exchange(tokens: _Tokens, some: Bool[Tensor, "batch seq"], others: Bool[Tensor, "batch seq"]) -> _Tokens:
    """The n-th token of one mask changes places with the n-th of the other; rows have equally many of both."""
    source = torch.arange(tokens.shape[1]).expand_as(tokens)
    for here, there in ((some, others), (others, some)):
        partner = there.int().argsort(dim=1, descending=True, stable=True)
        source = torch.where(here, partner.gather(1, (here.cumsum(1) - 1).clamp(min=0)), source)
    return tokens.gather(1, source)


def _make_pair(inputs: _Tokens, swapped: _Tokens, answers: Tensor, last: Tensor, chains: Tensor, how: str) -> Pair:
    end = inputs.shape[1] - 1
    roles = {"query": torch.full_like(last[:, 0], end)}
    if how == "successor":
        roles |= {"last_state": last[:, 0] - 1, "last_successor": last[:, 0]}
    else:
        roles |= {"last_state": last[:, 0], "last_successor": last[:, 0] + 1}
        roles |= {"other_state": last[:, 1], "other_successor": last[:, 1] + 1}
    scored = torch.zeros_like(inputs, dtype=torch.bool)
    scored[:, -1] = True
    none_drew_it = torch.full_like(chains, float("nan"))
    batches = []
    for tokens, (right, wrong), rows in ((inputs, answers.T, chains), (swapped, answers.flip(1).T, none_drew_it)):
        targets = torch.cat([tokens[:, 1:], right[:, None]], 1)
        wrongs = torch.where(scored, wrong[:, None], -1)
        batches.append(Batch(tokens, targets, scored, wrongs, roles, _latents(tokens, rows)))
    return Pair(*batches)
