"""Draws without replacement or under a condition, from a short beginning of an endless stream; draws until enough.

`torch.multinomial` without replacement costs a random number for every row and option: at 128 rows and 2,048 options
more than all else that a generator does. A stream with replacement costs a few per row, and is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.core import ConfigError

Stream = Int[Tensor, "batch drawn"]


def first_distinct(
    weights: Float[Tensor, " options"], batch: int, count: int, gen: torch.Generator
) -> Int[Tensor, "batch count"]:
    """The first different options of each row's stream: draws by weight, without replacement, in order.

    Args:
        weights: Of the options, at least `count` of them above 0.
        batch: Rows.
        count: Options per row.
        gen: Source of the streams.
    """
    stream = _more(weights, batch, 2 * count, gen)
    while True:
        first = ~(stream[:, :, None] == stream[:, None, :]).tril(-1).any(-1)
        if bool((first.sum(1) >= count).all()):
            order = torch.argsort((~first).to(torch.int8), dim=1, stable=True)
            return stream.gather(1, order[:, :count])
        stream = torch.cat([stream, _more(weights, batch, stream.shape[1], gen)], 1)


def first_allowed(
    weights: Float[Tensor, " options"],
    allowed: Callable[[Stream], Bool[Tensor, "batch drawn"]],
    batch: int,
    gen: torch.Generator,
) -> Int[Tensor, "batch 1"]:
    """The first option of each row's stream that is allowed there: by weight among those.

    Args:
        weights: Of the options; every row allows one whose weight is above 0.
        allowed: Which of the drawn options, `[batch, drawn]`, their rows allow.
        batch: Rows.
        gen: Source of the streams.
    """
    stream = _more(weights, batch, 4, gen)
    while True:
        fits = allowed(stream)
        if bool(fits.any(1).all()):
            return stream.gather(1, fits.long().argmax(1, keepdim=True))
        stream = torch.cat([stream, _more(weights, batch, stream.shape[1], gen)], 1)


def collect(draw: Callable[[], tuple[Tensor, ...]], batch: int, failure: str) -> tuple[Tensor, ...]:
    """Draw until there are enough rows, of a draw that does not give as many as were tried.

    Args:
        draw: Draws some rows, the same number in each tensor.
        batch: How many rows are wanted.
        failure: Why there may be too few.

    Raises:
        ConfigError: With the failure, if 50 draws are not enough.
    """
    parts: list[tuple[Tensor, ...]] = []
    while sum(len(part[0]) for part in parts) < batch:
        if len(parts) == 50:
            raise ConfigError(failure)
        parts.append(draw())
    return tuple(torch.cat(columns)[:batch] for columns in zip(*parts, strict=True))


def _more(weights: Tensor, batch: int, count: int, gen: torch.Generator) -> Stream:
    return torch.multinomial(weights, batch * count, replacement=True, generator=gen).view(batch, count)
