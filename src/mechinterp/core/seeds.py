"""One seed in, one independent generator per named use out; draws are float32 whatever torch's default is."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every name, the same on all platforms.

    Args:
        seed: The user's seed.
        names: What the randomness is for, from general to special. A name may hold any text: `"a/b"` is another use
            than `"a", "b"`. A number and its text are one name.

    >>> derive_seed(0, "data") == derive_seed(0, "data"), derive_seed(0, "data") == derive_seed(0, "init")
    (True, False)
    """
    words = [str(int(seed)), *(str(name) for name in names)]
    # No two lists of plain words are equal when joined by slashes. Words with a slash are written as a list in JSON,
    # which no joined text equals, because that begins with a number.
    text = json.dumps(words) if any("/" in word for word in words) else "/".join(words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for one named use; draws are moved to a device afterwards, so devices agree."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def uniform(gen: torch.Generator, *shape: int) -> Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(*shape, generator=gen, dtype=torch.float32)


def normal(gen: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=gen, dtype=torch.float32)


def exponential(gen: torch.Generator, *shape: int) -> Tensor:
    """Exponential numbers of mean 1."""
    return torch.empty(*shape, dtype=torch.float32).exponential_(generator=gen)
