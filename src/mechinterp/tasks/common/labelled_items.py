"""Items and labels as they were drawn, and the Batch that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Batch


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """Sequences of items with labels; the last column is the query.

    Args:
        items: With noise, `[batch, pairs + 1, dim]`.
        centres: Without, of the same shape.
        who: Which class, `[batch, pairs + 1]`; numbers mean nothing beyond their row.
        labels: In this sequence, `[batch, pairs + 1]`; the query's is the answer.
        known: The label that the class has in every sequence, -1 for new classes, `[batch, pairs + 1]`.
    """

    items: Tensor
    centres: Tensor
    who: Tensor
    labels: Tensor
    known: Tensor

    def take(self, rows: Tensor | slice) -> LabelledItems:
        """Some of the sequences."""
        return LabelledItems(*(part[rows] for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors, in the order of the arguments."""
        return tuple(getattr(self, item.name) for item in fields(self))

    def batch(
        self,
        vectors: Float[Tensor, "labels dim"],
        twin: LabelledItems | None = None,
        roles: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """Items and labels by turns, scored at the query, with the latents that follow from them.

        Args:
            vectors: What stands at a label's position.
            twin: Whose answers are the wrong ones.
            roles: Of the positions.
        """
        count, pairs = len(self.who), self.who.shape[1] - 1
        spread = self.items.new_empty(count, 2 * pairs + 1, self.items.shape[-1])
        spread[:, ::2], spread[:, 1::2] = self.items, vectors[self.labels[:, :-1]]
        nothing = torch.full(spread.shape[:2], -1)
        label, context, weights, targets = (nothing.clone() for _ in range(4))
        label[:, 1::2], weights[:, ::2] = self.labels[:, :-1], self.known
        earlier = (self.who[:, :, None] == self.who[:, None, :]).tril(-1)
        last = torch.where(earlier, torch.arange(pairs + 1), -1).amax(-1)
        context[:, ::2] = torch.where(last >= 0, self.labels.gather(1, last.clamp(min=0)), -1)
        is_label = (torch.arange(2 * pairs + 1) % 2).expand(count, -1)
        latents = dict(label=label, in_context_label=context, in_weights_label=weights, is_label=is_label)
        targets[:, -1] = self.labels[:, -1]
        wrong = None
        if twin is not None:
            wrong = nothing.clone()
            wrong[:, -1] = twin.labels[:, -1]
        return Batch(spread, targets, (targets >= 0), wrong, roles or {}, latents)
