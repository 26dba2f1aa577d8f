"""What the compiled programs compute, in plain Python, and the sequences that they compute it on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.core import Batch, ConfigError, Pair, generator, suggest

Word: TypeAlias = str | int
Symbol: TypeAlias = str | int | float | bool | None

CORRUPTION = "inputs"
"""The one corruption of a program's pairs: another sequence."""


def reverse(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """The sequence backwards."""
    return list(reversed(tokens))


def sort(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """The tokens in rising order."""
    return sorted(tokens)  # type: ignore[type-var]


def histogram(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """How often each position's token occurs in the whole sequence."""
    return [tokens.count(token) for token in tokens]


def duplicates(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """Whether each position's token occurs elsewhere in the sequence."""
    return [tokens.count(token) > 1 for token in tokens]


def induction(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """The token that followed the earlier copy of each position's token; nothing where there is no earlier copy.

    Only for sequences in which no token occurs three times: then there is one earlier copy at most.
    """
    return [tokens[tokens.index(token) + 1] if token in tokens[:i] else None for i, token in enumerate(tokens)]


def fraction_previous(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """The share of `x` among the tokens up to and with each position."""
    return [tokens[: i + 1].count("x") / (i + 1) for i in range(len(tokens))]


def pair_balance(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """Opening minus closing brackets up to and with each position, over the number of tokens so far."""
    return [(tokens[: i + 1].count("(") - tokens[: i + 1].count(")")) / (i + 1) for i in range(len(tokens))]


def dyck_1(tokens: Sequence[Word]) -> Sequence[Symbol]:
    """Whether the brackets of the whole sequence are balanced, said at every position."""
    depths = list(itertools.accumulate(1 if token == "(" else -1 for token in tokens))
    return [min(depths) >= 0 and depths[-1] == 0] * len(tokens)


RUNS: dict[str, Callable[[Sequence[Word]], Sequence[Symbol]]] = {
    "dyck_1": dyck_1,
    "duplicates": duplicates,
    "fraction_previous": fraction_previous,
    "histogram": histogram,
    "induction": induction,
    "pair_balance": pair_balance,
    "reverse": reverse,
    "sort": sort,
}


@dataclass(frozen=True)
class Program:
    """A program over short sequences, and how its inputs and outputs are written for a model.

    A model reads a token that starts the sequence (number 0), then the words. It puts out one-hot vectors over
    `outputs` (zero for "nothing"), or one number.

    Args:
        name: One of `compiled_names()`.
        rasp: Its source, as it was compiled.
        vocabulary: The words of a sequence; the first has token number 1.
        outputs: The values it can put out, None if it puts out numbers.
        length: Words in the longest sequence.
    """

    name: str
    rasp: str
    vocabulary: tuple[Word, ...]
    outputs: tuple[Symbol, ...] | None
    length: int

    @property
    def says(self) -> str:
        """What it computes, in words."""
        return (RUNS[self.name].__doc__ or "").partition("\n")[0]

    def run(self, tokens: Sequence[Word]) -> list[Symbol]:
        """One output per word, in plain Python.

        Raises:
            ConfigError: If there is a word that is not in the vocabulary, or the sequence is none of the program's.
        """
        unknown = [token for token in tokens if token not in self.vocabulary]
        if unknown:
            words = ", ".join(map(str, self.vocabulary))
            raise ConfigError(f"{self.name} has no word {unknown[0]!r}: its words are {words}")
        if not 0 < len(tokens) <= self.length or not self.fits(tokens):
            rule = " and no word three times" if self.name == "induction" else ""
            raise ConfigError(f"{self.name} takes 1 to {self.length} words{rule}, got {list(tokens)}")
        return list(RUNS[self.name](list(tokens)))

    def fits(self, tokens: Sequence[Word]) -> bool:
        """Whether the program is defined on these words."""
        return self.name != "induction" or all(tokens.count(token) <= 2 for token in tokens)

    def sequences(self, length: int | None = None) -> list[tuple[Word, ...]]:
        """All sequences of a length, by default the longest."""
        every = itertools.product(self.vocabulary, repeat=length or self.length)
        return [tokens for tokens in every if self.fits(tokens)]

    def inputs(self, sequences: Iterable[Sequence[Word]]) -> Int[Tensor, "batch seq"]:
        """Token numbers of sequences of one length, the starting token before them."""
        number = {word: i + 1 for i, word in enumerate(self.vocabulary)}
        return torch.tensor([[0, *(number[word] for word in words)] for words in sequences])

    def targets(self, sequences: Iterable[Sequence[Word]]) -> Float[Tensor, "batch seq out"]:
        """What a model should put out, float64; zeros at the starting token, where nothing is asked."""
        rows = [[self._written(value) for value in self.run(words)] for words in sequences]
        answers = torch.tensor(rows, dtype=torch.float64)
        return torch.cat([torch.zeros_like(answers[:, :1]), answers], 1)

    def _written(self, value: Symbol) -> list[float]:
        return [float(value or 0)] if self.outputs is None else [float(value == one) for one in self.outputs]

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        words = self.sequences()
        return self.inputs(words), self.targets(words)

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = CORRUPTION) -> Pair:
        """Two sequences drawn apart, scored where their outputs differ; drawn again where none does.

        Args:
            batch: Examples.
            seed: Of the draws.
            corruption: `inputs`, the only one.

        Raises:
            ConfigError: If there is no such corruption.
        """
        if corruption != CORRUPTION:
            raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, [CORRUPTION])}")
        inputs, targets = self._all
        draw, different = generator(seed, "compiled", self.name), torch.empty(0, 2, dtype=torch.long)
        while len(different) < batch:
            drawn = torch.randint(len(inputs), (4 * batch, 2), generator=draw)
            differ = (targets[drawn[:, 0]] != targets[drawn[:, 1]]).flatten(1).any(1)
            different = torch.cat([different, drawn[differ]])[:batch]
        first, second = different.unbind(1)
        scored = (targets[first] != targets[second]).any(-1)
        return Pair(
            Batch(inputs[first], targets[first], scored, targets[second]),
            Batch(inputs[second], targets[second], scored, targets[first]),
        )
