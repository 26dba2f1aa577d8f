"""The few error types of the toolkit, and the words they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MechinterpError(Exception):
    """Base of every error that the toolkit raises on purpose; its text is one clear line."""


class ConfigError(MechinterpError, ValueError):
    """A setting, argument or combination of them that has no meaning."""


class ShapeError(MechinterpError, ValueError):
    """A tensor whose shape is not what the function asks for."""


class SiteError(MechinterpError, LookupError):
    """An address (site, edge, hook name) that does not exist in this model."""


class RunError(MechinterpError):
    """A Run folder, checkpoint or result file that is damaged, foreign or incomplete."""


class DivergedError(MechinterpError):
    """A training whose loss is not a number any more."""


class UnsupportedError(MechinterpError):
    """A model or task that lacks what an analysis needs."""


def in_words(items: Iterable[str], last: str = "or") -> str:
    """A list as a sentence has it.

    >>> in_words(["a", "b", "c"]), in_words(["a", "b"], "and"), in_words(["a"])
    ('a, b or c', 'a and b', 'a')
    """
    *others, final = items
    return f"{', '.join(others)} {last} {final}" if others else final


def check_word(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a word that an argument does not take.

    Args:
        name: Of the argument.
        value: What came.
        allowed: The words that it takes.

    Raises:
        ConfigError: If the value is none of them, naming the nearest.
    """
    words = tuple(allowed)
    if value not in words:
        raise ConfigError(f"no {name} '{value}'.{suggest(str(value), words)}")


def suggest(name: str, allowed: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` with the nearest allowed names, or the whole list where nothing is near.

    Args:
        name: What came.
        allowed: What would have been right.

    Returns:
        A clause that starts with a space, ready to append to an error message.

    >>> suggest("logit_dif", ["logit_diff", "kl"])
    " Did you mean 'logit_diff'?"
    """
    options = sorted(set(allowed))
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if near:
        quoted = [f"'{item}'" for item in near]
        return f" Did you mean {in_words(quoted)}?"
    shown = ", ".join(options[:20]) + (", ..." if len(options) > 20 else "")
    return f" Allowed: {shown}."
