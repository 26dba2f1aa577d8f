"""Reference predictors over labels: what can be known of an item's label, from the context or from training.

They read sequences of vectors, items and labels by turns, and give log probabilities `[batch, seq, labels]`: at items
of their labels, from what comes before; at labels, after which an item comes, uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from mechinterp.core import Batch
from mechinterp.tasks.common.predictors import log_shares

Items = Float[Tensor, "batch items dim"]
Labels = Int[Tensor, "batch pairs"]
Counts = Tensor


@dataclass(frozen=True, eq=False)
class AnyLabel:
    """All labels alike: right 1/L of the time. The others derive from it and count what speaks for each label.

    Args:
        vectors: What stands at a label's position, `[labels, dim]`.
    """

    vectors: Float[Tensor, "labels dim"]

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq labels"]:
        items, shown = batch.inputs[:, ::2], batch.inputs[:, 1::2]
        labels = torch.cdist(shown, self.vectors.to(shown)).argmin(-1)
        counts = items.new_zeros(*batch.inputs.shape[:2], len(self.vectors))
        counts[:, ::2] = self.counts(items, labels).to(counts)
        return log_shares(counts)

    def counts(self, items: Items, labels: Labels) -> Counts:
        """Shares of the labels at each item, `[batch, items, labels]`; all zero means that all are alike."""
        return items.new_zeros(*items.shape[:2], len(self.vectors))


@dataclass(frozen=True, eq=False)
class SeenLabels(AnyLabel):
    """Labels of the context, as often as seen: right about B/N of the time, if the query's class was seen B times."""

    def counts(self, items: Items, labels: Labels) -> Counts:
        counts = one_hot(labels, len(self.vectors)).cumsum(1)
        return torch.cat([torch.zeros_like(counts[:, :1]), counts], 1)


@dataclass(frozen=True, eq=False)
class NearestNeighbour(AnyLabel):
    """The label of the nearest earlier item: what an ideal match and copy in the context finds."""

    def counts(self, items: Items, labels: Labels) -> Counts:
        later = torch.ones(items.shape[1], labels.shape[1], dtype=torch.bool, device=items.device).triu()
        nearest = torch.cdist(items, items[:, :-1]).masked_fill(later, float("inf")).argmin(-1)
        votes = one_hot(labels.gather(1, nearest), len(self.vectors))
        votes[:, 0] = 0
        return votes


@dataclass(frozen=True, eq=False)
class NearestClass(AnyLabel):
    """The label that the nearest class of training always has: what ideal weights remember.

    Args:
        vectors: As in `AnyLabel`.
        means: Of the classes, `[classes, dim]`.
        label_of: Each class's label, `[classes]`.
    """

    means: Float[Tensor, "classes dim"]
    label_of: Int[Tensor, " classes"]

    def counts(self, items: Items, labels: Labels) -> Counts:
        nearest = torch.cdist(items, self.means.to(items)).argmin(-1)
        return one_hot(self.label_of.to(nearest.device)[nearest], len(self.vectors))
