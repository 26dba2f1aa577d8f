"""Where in the sequence the rows of a tensor stand.

Norms, projections and MLPs act on each row by itself, so they run on any choice of positions. Attention mixes rows, and
what it does depends on where queries and keys stand (masks, rotary positions, biases by distance): it takes a
`Positions` for both. A `Positions` also carries what a kind of positions adds, so that no caller threads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions of a tensor's rows: a stretch up to the end of the sequence, or each example's own choice.

    Args:
        index: Position of each row: `[row]` for a stretch, `[*lead, batch, row]` for each example's own.
        first: First position of a stretch; None for each example's own.
        added: Vectors that positions add to what queries and keys read (shortformer), one a row; None for none.
        unseen: Keys that no query sees (padding), of the whole sequence; None for none. Queries carry none.
    """

    index: Int[Tensor, "*lead row"]
    first: int | None = None
    added: Float[Tensor, "*lead row d_model"] | None = None
    unseen: Bool[Tensor, "*batch row"] | None = None

    @classmethod
    def whole(
        cls,
        seq: int,
        device: torch.device | None = None,
        added: Tensor | None = None,
        unseen: Tensor | None = None,
    ) -> Positions:
        """All positions of a sequence."""
        return cls(torch.arange(seq, device=device), 0, added, unseen)

    def of_examples(self, size: int, count: int) -> list[Positions]:
        """The whole sequence, for some of `count` examples at a time."""
        if self.unseen is None:
            return [self] * -(-count // size)
        return [replace(self, unseen=unseen) for unseen in self.unseen.split(size)]

    def since(self, first: int) -> Positions:
        """From the whole sequence: the positions from `first` on."""
        if first == 0:
            return self
        return Positions(self.index[first:], first, None if self.added is None else self.added[first:])

    def pick(self, index: Int[Tensor, "*lead batch row"]) -> Positions:
        """From the whole sequence: positions of each example's own, all different within an example."""
        return Positions(index, None, None if self.added is None else self.added[index])

    def take(self, values: Shaped[Tensor, ...], axes: int = 1) -> Shaped[Tensor, ...]:
        """The rows of `values` (`[... batch seq *width]`) at these positions; a stretch is a view.

        Args:
            values: Something at all positions.
            axes: How many axes follow the sequence's.
        """
        if self.first is not None:
            return values if self.first == 0 else values.narrow(-1 - axes, self.first, len(self.index))
        if axes == 1:
            return take(values, self.index)
        return take(values.flatten(-axes), self.index).unflatten(-1, values.shape[-axes:])

    def table(self, rows: Shaped[Tensor, "seq width"]) -> Shaped[Tensor, "*lead row width"]:
        """The rows of a table with an entry per position."""
        return rows[self.index] if self.first is None else rows[self.first : self.first + len(self.index)]

    def splice(
        self, values: Shaped[Tensor, "*lead row width"], base: Shaped[Tensor, "... seq width"], wanted: Positions
    ) -> Shaped[Tensor, "*lead wanted width"]:
        """`base` with `values` at these positions instead of its own, as it stands at the `wanted` positions.

        Args:
            values: One row for each of these positions.
            base: Something at all positions.
            wanted: If it is a stretch, none of these positions lies before it.
        """
        if self is wanted or (self.first is not None and self.first == wanted.first):
            return values
        lead = values.shape[:-2]
        if wanted.first is not None:
            if self.first is not None:
                before = base[..., wanted.first : self.first, :]
                return torch.cat([before.expand(*lead, *before.shape[-2:]), values], -2)
            around = wanted.take(base)
            index = (self.index - wanted.first)[..., None].expand(values.shape)
            return around.expand(*lead, *around.shape[-2:]).clone().scatter_(-2, index, values)
        if self.first is not None:
            own = take(values, (wanted.index - self.first).clamp(min=0))
            if self.first == 0:
                return own
            return torch.where((wanted.index < self.first)[..., None], wanted.take(base), own)
        same = wanted.index[..., :, None] == self.index[..., None, :]
        own = values if values.shape[-2] == 1 else take(values, same.to(torch.int8).argmax(-1))
        return torch.where(same.any(-1, keepdim=True), own, wanted.take(base))


def take(
    values: Shaped[Tensor, "*lead seq width"], index: Int[Tensor, "*examples row"]
) -> Shaped[Tensor, "*out row width"]:
    """`values` at some positions of each example, `[*lead, row, width]`; leading axes broadcast."""
    lead = broadcast(values.shape[:-2], index.shape[:-1])
    index = index[..., None].expand(*lead, index.shape[-1], values.shape[-1])
    return values.expand(*lead, *values.shape[-2:]).gather(-2, index)


def broadcast(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """The shape that two shapes broadcast to, if they do; `torch.broadcast_shapes` costs as much as a small product."""
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    extra = len(long) - len(short)
    return (*long[:extra], *map(max, long[extra:], short))
