"""Prompts from templates, for models of language: indirect objects, later years, arguments of a function.

Every template fills its slots with words that are one token each for the tokenizer at hand, so that all prompts
have one length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mechinterp.core import ConfigError, derive_seed
from mechinterp.tasks.prompts import Prompts, TokenizerLike

FIRST_NAMES = (
    "Mary John Tom James Dan Sam Martin Kate Anna Paul Mark Peter Laura Alice Jack Simon Sarah Emma David Michael"
)
PLACES = "store park school house office station garden market hospital restaurant"
THINGS = "drink book ring ball key bone basket computer letter present"
EVENTS = "war treaty reign project strike voyage dispute campaign alliance study"
ARGUMENTS = "name size file path data user key value index code text list type date line image field order group label"
FUNCTIONS = "load save read write send update build check open close"


def indirect_objects(tokenizer: TokenizerLike, count: int = 100, *, seed: int = 0, bos: bool = True) -> Prompts:
    """Who is given something: the name that came once.

    clean      When Mary and John went to the store, John gave a drink to    ->  Mary
    corrupted  When Mary and John went to the store, Mary gave a drink to    ->  John

    Half of the prompts name the giver first.

    Args:
        tokenizer: Of the model.
        count: Prompts.
        seed: Of the words.
        bos: As for `Prompts`.

    Returns:
        With the roles `first_name`, `second_name`, `giver`, `end`.

    Raises:
        ConfigError: If the tokenizer has too few one-token words.

    Source: Wang et al. 2022, "Interpretability in the Wild". Differs: the corrupted prompt exchanges the giver.
    """
    fill = _Words(tokenizer, derive_seed(seed, "indirect objects"))
    rows = []
    for number in range(count):
        first, second = fill(FIRST_NAMES, 2)
        (place,), (thing,) = fill(PLACES), fill(THINGS)
        giver, taker = (first, second) if number % 2 else (second, first)

        def text(who: str, first=first, second=second, place=place, thing=thing) -> str:
            return f"When {first} and {second} went to the {place}, {who} gave a {thing} to"

        roles = {"first_name": first, "second_name": second, "giver": f"{giver}#2", "end": " to#2"}
        rows.append((text(giver), text(taker), f" {taker}", f" {giver}", roles))
    return _prompts(rows, tokenizer, bos)


def later_years(tokenizer: TokenizerLike, count: int = 100, *, seed: int = 0, bos: bool = True) -> Prompts:
    """When something ended: later than it began.

    clean      The war lasted from the year 1741 to the year 17    ->  62
    corrupted  The war lasted from the year 1702 to the year 17    ->  35

    The corrupted prompt begins so early that the wrong answer, earlier than the clean beginning, is right.

    Args:
        tokenizer: Of the model; it must write the years' two halves as one token each.
        count: Prompts.
        seed: Of the words.
        bos: As for `Prompts`.

    Returns:
        With the roles `year` and `end`.

    Raises:
        ConfigError: If the tokenizer splits years in another way.

    Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?". Differs: single answers, one above and one below.
    """
    fill = _Words(tokenizer, derive_seed(seed, "later years"))
    years = [f"{year:02d}" for year in range(2, 99) if year != 17]  # 1717 would hold the century twice
    single = [year for year in years if fill.pieces(f" 17{year}") == fill.pieces(" 1702") and fill.pieces(year) == 1]
    if len(single) < 20:
        raise ConfigError("the tokenizer does not write the last two digits of years as one token")
    rows = []
    for _ in range(count):
        low, middle, high = sorted(fill.draw(single[1:], 3))
        (event,), century = fill(EVENTS), "17"

        def text(year: str, event=event, century=century) -> str:
            return f"The {event} lasted from the year {century}{year} to the year {century}"

        roles = {"year": middle, "end": f"{century}#2"}
        rows.append((text(middle), text(single[0]), high, low, roles))
    return _prompts(rows, tokenizer, bos)


def arguments(tokenizer: TokenizerLike, count: int = 100, *, seed: int = 0, bos: bool = True) -> Prompts:
    """Which argument is documented next: the one that follows in the function's head.

    clean      def load(name, size, file): ... :param name: ... :param size: ... :param    ->  file
    corrupted  def load(name, size, path): ... :param name: ... :param size: ... :param    ->  path

    Args:
        tokenizer: Of the model.
        count: Prompts.
        seed: Of the words.
        bos: As for `Prompts`.

    Returns:
        With the roles `argument` (in the head), `previous` (the argument before it, in the documentation), `end`.

    Raises:
        ConfigError: If the tokenizer has too few one-token words.

    Source: Heimersheim & Janiak 2023, "A circuit for Python docstrings". Differs: three arguments, one is exchanged.
    """
    fill = _Words(tokenizer, derive_seed(seed, "arguments"))
    rows = []
    for _ in range(count):
        one, two, three, other = fill(ARGUMENTS, 4)
        (function,) = fill(FUNCTIONS)

        def text(last: str, one=one, two=two, function=function) -> str:
            head = f"def {function}( {one}, {two}, {last}):"
            return f'{head}\n    """\n    :param {one}: the {one}\n    :param {two}: the {two}\n    :param'

        roles = {"argument": f" {three}", "previous": f":param {two}", "end": ":param#3"}
        rows.append((text(three), text(other), f" {three}", f" {other}", roles))
    return _prompts(rows, tokenizer, bos)


TEMPLATES: dict[str, Callable[..., Prompts]] = {
    "indirect-objects": indirect_objects,
    "later-years": later_years,
    "arguments": arguments,
}
"""Templates by name."""


class _Words:
    """Draws words that are one token behind a space."""

    def __init__(self, tokenizer: TokenizerLike, seed: int) -> None:
        self._tokenizer, self._rng = tokenizer, np.random.default_rng(seed)
        self._single: dict[str, list[str]] = {}

    def pieces(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._tokenizer([text], add_special_tokens=False)["input_ids"][0])

    def draw(self, words: list[str], count: int) -> list[str]:
        """Different words."""
        return [words[number] for number in self._rng.choice(len(words), count, replace=False)]

    def __call__(self, words: str, count: int = 1) -> list[str]:
        """Different words of one token each.

        Raises:
            ConfigError: If there are too few.
        """
        if words not in self._single:
            self._single[words] = [word for word in words.split() if self.pieces(f" {word}") == 1]
        single = self._single[words]
        if len(single) < count:
            raise ConfigError(f"the tokenizer has {len(single)} one-token words of '{words}': {count} are needed")
        return self.draw(single, count)


def _prompts(rows: Sequence[tuple[str, str, str, str, dict[str, str]]], tokenizer: TokenizerLike, bos: bool) -> Prompts:
    clean, corrupted, answers, wrong, roles = zip(*rows, strict=True)
    named = {name: tuple(one[name] for one in roles) for name in roles[0]}
    settings = {"clean": clean, "corrupted": corrupted, "answers": answers, "wrong": wrong, "roles": named}
    return Prompts.of({**settings, "tokenizer": tokenizer, "bos": bos})
