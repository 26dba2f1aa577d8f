"""Prompts in words: a task for models with a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from mechinterp.core import Batch, ConfigError, Pair, UnsupportedError, generator
from mechinterp.tasks.base import Task


@runtime_checkable
class TokenizerLike(Protocol):
    """What is needed of a tokenizer of Hugging Face."""

    name_or_path: str
    is_fast: bool

    def __call__(self, text: list[str], **options: object) -> Mapping[str, list[Any]]: ...
    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...


_TOKENIZERS: dict[str, TokenizerLike] = {}
"""Tokenizers that were given as objects, by the name or folder that they can be loaded from."""


class Prompts(Task):
    """Finish prompts with one token; pairs are prompts with corrupted twins, scored at the end.

    clean      When Mary and John went to the store, John gave a drink to    ->  Mary
    corrupted  When Mary and John went to the store, Mary gave a drink to    ->  John

    All prompts must have the same number of tokens, and each answer must be one token: what is padded or cut would
    shift positions or change the question. A batch draws prompts without replacement as long as there are enough.

    Args:
        clean: The prompts.
        corrupted: Their twins.
        answers: What follows each clean prompt, with its leading space if it has one.
        wrong: What follows each corrupted one.
        tokenizer: Name or folder of a tokenizer of Hugging Face, or the tokenizer, if it has one of these.
        bos: Whether a beginning-of-sequence token is put before each prompt, as the model saw it in training.
        roles: Name -> the words that play the role, one text for all prompts or one for each clean prompt; `"Mary#2"`
            is their second occurrence. The role is at the words' last token, in the corrupted prompt at the same
            position.

    Raises:
        ConfigError: If lists differ in length; at the first draw also if prompts differ in length, an answer is not one
            token, or a role's words are not in a prompt.
    """

    name = "prompts"

    clean: tuple[str, ...] = Field(min_length=1)
    corrupted: tuple[str, ...]
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    tokenizer: str
    bos: bool
    roles: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, str):
            return value
        name = getattr(value, "name_or_path", "")
        if not name:
            raise ValueError("the tokenizer has no name to load it by: save it with save_pretrained and load it again")
        _TOKENIZERS[name] = value  # type: ignore[assignment]
        return name

    @field_validator("roles", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return tuple((name, (words,) if isinstance(words, str) else tuple(words)) for name, words in value.items())

    @model_validator(mode="after")
    def _check(self) -> Prompts:
        count = len(self.clean)
        lists = {"corrupted": self.corrupted, "answers": self.answers, "wrong": self.wrong}
        for name, values in lists.items():
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} texts for {count} prompts")
        for name, words in self.roles:
            if len(words) not in (1, count):
                raise ValueError(f"role '{name}' has {len(words)} texts: give one, or one for each of {count} prompts")
        same = [number for number, (a, b) in enumerate(zip(self.answers, self.wrong, strict=True)) if a == b]
        if same:
            raise ValueError(f"prompt {same[0]}: '{self.answers[same[0]]}' is both the answer and the wrong one")
        return self

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Clean prompts, scored at the last position."""
        return self._side("clean", self._draw(batch, seed, "batch"))

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        """Clean prompts and their corrupted twins."""
        drawn = self._draw(batch, seed, "pair")
        return Pair(self._side("clean", drawn), self._side("corrupted", drawn))

    def tokens(self, inputs: Int[Tensor, "batch seq"]) -> list[list[str]]:
        """The tokens of examples as texts, to label plots with."""
        return [self._loaded.convert_ids_to_tokens(row) for row in inputs.tolist()]

    def _draw(self, batch: int, seed: int, use: str) -> Tensor:
        """Numbers of prompts; each comes once before one comes twice."""
        gen, count = generator(seed, self.name, use), len(self.clean)
        rounds = [torch.randperm(count, generator=gen) for _ in range(-(-batch // count))]
        return torch.cat(rounds)[:batch]

    def _side(self, side: str, drawn: Tensor) -> Batch:
        encoded = self._encoded
        inputs, right, wrong = encoded.clean, encoded.answers, encoded.wrong
        if side == "corrupted":
            inputs, right, wrong = encoded.corrupted, encoded.wrong, encoded.answers
        inputs = inputs[drawn]
        scored = torch.zeros_like(inputs, dtype=torch.bool)
        scored[:, -1] = True

        def at_the_end(answers: Tensor) -> Tensor:
            return torch.where(scored, answers[drawn, None], -1)

        roles = {name: where[drawn] for name, where in encoded.roles.items()}
        return Batch(inputs, at_the_end(right), scored, wrong=at_the_end(wrong), roles=roles)

    @cached_property
    def _loaded(self) -> TokenizerLike:
        if self.tokenizer in _TOKENIZERS:
            return _TOKENIZERS[self.tokenizer]
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.tokenizer)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no tokenizer '{self.tokenizer}': {str(error).splitlines()[0]}") from error

    @cached_property
    def _encoded(self) -> _Encoded:
        tokenizer, count = self._loaded, len(self.clean)
        rows = tokenizer([*self.clean, *self.corrupted], add_special_tokens=False)["input_ids"]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            odd = next(number for number, row in enumerate(rows) if len(row) != len(rows[0]))
            side = "clean" if odd < count else "corrupted"
            raise ConfigError(
                f"prompts have {lengths[0]} to {lengths[-1]} tokens, such as {side} prompt {odd % count}: give prompts "
                "of one length; padding would shift positions"
            )
        inputs = torch.tensor(rows, dtype=torch.long)
        if self.bos:
            start = getattr(tokenizer, "bos_token_id", None)
            if start is None:
                raise ConfigError(f"bos=True: the tokenizer '{self.tokenizer}' has no beginning-of-sequence token")
            inputs = torch.cat([torch.full_like(inputs[:, :1], start), inputs], 1)
        answers, wrong = (self._single(texts) for texts in (self.answers, self.wrong))
        return _Encoded(inputs[:count], inputs[count:], answers, wrong, self._positions())

    def _single(self, texts: Sequence[str]) -> Tensor:
        rows = self._loaded(list(texts), add_special_tokens=False)["input_ids"]
        several = [f"'{text}'" for text, row in zip(texts, rows, strict=True) if len(row) != 1]
        if several:
            raise ConfigError(
                f"an answer is one token: {', '.join(dict.fromkeys(several))} are not; mind leading spaces"
            )
        return torch.tensor([row[0] for row in rows])

    def _positions(self) -> dict[str, Tensor]:
        if not self.roles:
            return {}
        if not self._loaded.is_fast:
            raise UnsupportedError(
                f"roles need a fast tokenizer: '{self.tokenizer}' does not tell where its tokens lie"
            )
        spans = self._loaded(list(self.clean), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        positions = {}
        for name, words in self.roles:
            each = words if len(words) == len(self.clean) else words * len(self.clean)
            places = [_place(*one, name) for one in zip(self.clean, each, spans, strict=True)]
            positions[name] = torch.tensor(places) + int(self.bos)
        return positions


@dataclass(frozen=True, eq=False)
class _Encoded:
    clean: Int[Tensor, "prompt seq"]
    corrupted: Int[Tensor, "prompt seq"]
    answers: Int[Tensor, " prompt"]
    wrong: Int[Tensor, " prompt"]
    roles: Mapping[str, Int[Tensor, " prompt"]]


def _place(prompt: str, words: str, spans: Iterable[tuple[int, int]], role: str) -> int:
    """The last token of an occurrence of some words."""
    text, _, number = words.rpartition("#")
    text, occurrence = (text, int(number)) if text and number.isdecimal() else (words, 1)
    end = 0
    for _ in range(occurrence):
        start = prompt.find(text, end)
        if start < 0:
            raise ConfigError(f"role '{role}': '{words}' is not in the prompt '{prompt}'")
        end = start + len(text)
    return max(number for number, (low, high) in enumerate(spans) if low < end and high > start)
