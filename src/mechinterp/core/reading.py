"""Read what comes from outside, in one way: JSON and TOML, each fault as one clear line."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from mechinterp.core.errors import ConfigError, MechinterpError, RunError
from mechinterp.core.settings import Settings

Format = Literal["json", "toml"]
_S = TypeVar("_S", bound=Settings)
_DEEPEST = 64
"""Levels of brackets; no file of ours comes near, and code that walks through the data may recurse."""


def read_settings(path: str | Path, format: Format, kind: type[_S], error: type[MechinterpError] = RunError) -> _S:
    """Settings from a file.

    Args:
        path: The file.
        format: What it is written in, whatever its name.
        kind: Of the settings.
        error: What to raise.

    Raises:
        MechinterpError: Of the type `error`, if the file cannot be read or its content is not what `kind` allows.
    """
    return checked(read_table(path, format, error), kind, str(path), error)


def read_table(path: str | Path, format: Format, error: type[MechinterpError] = RunError) -> dict[str, object]:
    """Names and plain values from a file; arguments and errors are those of `read_settings`."""
    data = parse(read_file(path, error), format, str(path), error)
    if not isinstance(data, dict):
        raise error(f"{path} does not hold names with values")
    return data


def read_file(path: str | Path, error: type[MechinterpError] = RunError) -> bytes:
    """The content of a regular file; a pipe in its place is refused at once, and not waited for.

    Raises:
        MechinterpError: Of the type `error`, if it cannot be read.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error(f"{path} cannot be read: it is no regular file")
            return file.read()
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read: {getattr(reason, 'strerror', None) or reason}") from reason


def parse(data: bytes | str, format: Format, where: str, error: type[MechinterpError] = RunError) -> object:
    """Plain data from text.

    Args:
        data: The text; bytes are UTF-8.
        format: What it is written in.
        where: Where it comes from, for the message.
        error: What to raise.

    Raises:
        MechinterpError: Of the type `error`, if the text is damaged, or nested deeper than any of ours.

    >>> parse("a = [1, 2]", "toml", "example")
    {'a': [1, 2]}
    """
    # People write TOML, and programs JSON.
    broken = f"{where} is {'no TOML' if format == 'toml' else 'damaged'}"
    try:
        text = data if isinstance(data, str) else data.decode()
        plain = tomllib.loads(text) if format == "toml" else json.loads(text)
    except RecursionError:
        raise error(f"{broken}: it is nested too deeply") from None
    except ValueError as reason:  # also digits beyond Python's limit for integers
        raise error(f"{broken}: {reason}") from reason
    level = [plain]
    for _ in range(_DEEPEST):
        level = [part for item in level if isinstance(item, dict | list) for part in _parts(item)]
    if level:
        raise error(f"{broken}: it is nested too deeply")
    return plain


def checked(data: Mapping[str, object], kind: type[_S], where: str, error: type[MechinterpError] = RunError) -> _S:
    """Plain data as settings.

    Args:
        data: What was read.
        kind: Of the settings.
        where: Where it comes from, for the message.
        error: What to raise.

    Raises:
        MechinterpError: Of the type `error`, if a setting is missing, unknown or has no meaning.
    """
    try:
        return kind.of(data)
    except ConfigError as reason:
        raise error(f"{where}: {str(reason).removeprefix(f'{kind.__name__}: ')}") from reason


def _parts(item: dict[str, object] | list[object]) -> list[object]:
    return list(item.values()) if isinstance(item, dict) else item
