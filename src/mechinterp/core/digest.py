"""A short name for plain data: equal data, equal digest, on every machine."""

from __future__ import annotations

import hashlib
import json


def digest(data: object, digits: int = 16) -> str:
    """The first hexadecimal digits of the hash of plain data, whatever the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), len(digest([], 8))
    (True, 8)
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:digits]
