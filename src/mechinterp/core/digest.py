"""A short name for plain data or a function: equal content, equal digest, on every machine."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType

from pydantic import BaseModel


def digest(data: object, digits: int = 16) -> str:
    """The first hexadecimal digits of the hash of plain data, whatever the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), len(digest([], 8))
    (True, 8)
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:digits]


def source_text(function: Callable[..., object]) -> str:
    """The text of a function, or its compiled code if it was typed into a plain interpreter."""
    function = inspect.unwrap(function)
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return code.co_code.hex() + repr(code.co_consts) if isinstance(code, CodeType) else type(function).__qualname__


def code_digest(function: Callable[..., object]) -> str:
    """A digest of a function's text and of the plain values and settings that it uses; not of what it calls.

    >>> def times(factor): return lambda number: number * factor
    >>> code_digest(times(2)) == code_digest(times(2)) != code_digest(times(3))
    True
    """
    known = isinstance(function, FunctionType | MethodType | partial | type)
    return digest(_told(function if known else function.__call__))


def _told(value: object) -> object:
    """A value as plain data."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_told(item) for item in value), key=str)
    if isinstance(value, dict):
        return [[_told(key), _told(item)] for key, item in value.items()]
    if isinstance(value, BaseModel):
        return [type(value).__qualname__, value.model_dump_json()]
    if isinstance(value, partial):
        return [_told(value.func), _told(value.args), _told(value.keywords)]
    if isinstance(value, MethodType):
        return [_told(value.__func__), _plain(getattr(value.__self__, "__dict__", {}))]
    if isinstance(value, FunctionType):
        around = inspect.getclosurevars(value)
        used = _plain({**around.globals, **around.nonlocals})
        return [source_text(value), _told(value.__defaults__), _told(value.__kwdefaults__), used]
    if isinstance(value, PurePath) or _of_torch(value):
        return repr(value)
    return value.__name__ if isinstance(value, type | ModuleType) else type(value).__qualname__


def _plain(values: Mapping[str, object]) -> list[object]:
    """Those of some named values that are plain data or settings."""
    kept = (bool, int, float, str, list, tuple, set, frozenset, dict, BaseModel, PurePath)
    chosen = {name: value for name, value in values.items() if isinstance(value, kept) or _of_torch(value)}
    return [[name, _told(value)] for name, value in sorted(chosen.items())]


def _of_torch(value: object) -> bool:
    """Whether a value is a type of numbers, a device or a tensor."""
    return type(value).__module__ == "torch"
