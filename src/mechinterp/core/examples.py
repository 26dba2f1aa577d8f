"""Which examples an analysis has seen, so that what it found is judged on others."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mechinterp.core.batches import Pair
from mechinterp.core.errors import ConfigError

SEEN = "seen"
"""Where the origin of a circuit keeps the names of the examples that it was found on."""
_DIGITS = 8
"""Characters of a name: 48 bits. Among two sets of a thousand examples two differ under one name once in 10^8."""


def example_names(pair: Pair) -> list[str]:
    """A short name for each example; two examples share it if they are of the same two inputs.

    It depends on no other example, nor on which of the two is the clean one, nor on the device.

    Args:
        pair: The examples.
    """
    sides = [_rows(side.inputs) for side in (pair.clean, pair.corrupted)]
    return [_name(b"|".join(sorted(both))) for both in zip(*sides, strict=True)]


def join_names(*names: Iterable[str]) -> str:
    """Names as one text, each once, in alphabetical order."""
    return "".join(sorted({name for some in names for name in some}))


def split_names(text: object) -> frozenset[str]:
    """The reverse of `join_names`.

    Raises:
        ConfigError: If the text is not one of its.
    """
    if not isinstance(text, str) or len(text) % _DIGITS:
        raise ConfigError(f"the examples that a circuit has seen are a text of {_DIGITS} letters for each")
    return frozenset(text[start : start + _DIGITS] for start in range(0, len(text), _DIGITS))


def seen_by(result: object) -> frozenset[str]:
    """The names of the examples that a result was computed on; none where it does not say."""
    attrs = getattr(result, "attrs", {})
    return split_names(attrs[SEEN]) if SEEN in attrs else frozenset()


def held_out(pair: Pair, origin: Mapping[str, object]) -> tuple[Pair, int]:
    """The examples of a pair that are not among those that something was found on.

    Args:
        pair: The examples.
        origin: How it was found: a circuit's `origin`, or the attributes of a result. Files of earlier versions hold
            the fingerprint of the whole pair instead of the names of its examples; then only that pair is known.

    Returns:
        The rest of the pair, and how many examples were left out.

    Raises:
        ConfigError: If fewer than two examples are left.
    """
    if SEEN in origin:
        seen = split_names(origin[SEEN])
        fresh = torch.tensor([name not in seen for name in example_names(pair)], dtype=torch.bool)
    else:
        fresh = torch.full((len(pair),), origin.get("pair") != pair.fingerprint)
    left = int(fresh.sum())
    if left < 2:
        raise ConfigError(
            f"this was found on {len(pair) - left} of these {len(pair)} examples, which leaves {left}: "
            "draw others (task.pair(seed=...))"
        )
    return (pair if left == len(pair) else pair[fresh.to(pair.clean.device)]), len(pair) - left


def _rows(inputs: Tensor) -> list[bytes]:
    # One type for tokens and one for vectors, and one zero: a copy of a pair in another type has the same examples.
    plain = inputs.detach().cpu().float() + 0.0 if inputs.is_floating_point() else inputs.detach().cpu().long()
    return [row.tobytes() for row in plain.contiguous().numpy()]


def _name(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()[: _DIGITS * 3 // 4]).decode()
