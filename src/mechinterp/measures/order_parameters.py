"""Order parameters: single numbers that tell one phase of training from the next, to be drawn beside the loss."""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp import attribution
from mechinterp.core import ConfigError, check_word, labelled
from mechinterp.interventions import as_transformer, on_model, streams
from mechinterp.measures.behaviour import mean_over, run_on_batch
from mechinterp.measures.registry import register_measure
from mechinterp.models import Transformer
from mechinterp.tasks import Task

WHERE = ("scored", "all")


@register_measure("in_context_score", examples_of="loss")
def in_context_score(
    model: nn.Module, task: Task, seed: int, *, examples: int = 128, share: float = 0.1, where: str = "scored"
) -> xr.DataArray:
    """How much lower the loss is late in the context than early: L_late - L_early, negative for what learns in context.

    Args:
        model: The model.
        task: Its loss counts: nats for tokens, squared distance for real values.
        seed: Of the examples.
        examples: How many.
        share: `early` is this share of an example's positions from the first on, `late` as many to the last; at least
            one each.
        where: `scored` positions, or `all` that have a target.

    Returns:
        Dimension example; NaN for one with fewer than two such positions. Null: 0 for a model that makes no use of the
        context, such as an untrained one.

    Source: Olsson et al. 2022, loss at the 500th token minus loss at the 50th. Differs: means over a share of the
    positions, since sequences here are short.
    """
    check_word("where", where, WHERE)
    if not 0 < share <= 0.5:
        raise ConfigError(f"share={share}: early and late positions are each at most half of all, and more than none")
    batch, output = run_on_batch(model, task, seed, examples)
    mask = batch.scored
    if where == "all":
        mask = torch.ones_like(mask) if batch.targets.is_floating_point() else batch.targets >= 0
    losses = task.loss(output, batch)
    count, place = mask.sum(1, keepdim=True), mask.cumsum(1)
    size = (count * share).floor().clamp(min=1)
    early, late = mask & (place <= size), mask & (place > count - size)
    score = mean_over(losses, late) - mean_over(losses, early)
    return labelled(torch.where(count[:, 0] > 1, score, float("nan")), ["example"])


@register_measure("hidden_similarity", examples_of="loss")
def hidden_similarity(
    model: nn.Module, task: Task, seed: int, *, examples: int = 128, where: str = "all"
) -> xr.DataArray:
    """Mean cosine between the residual streams of two different positions of a sequence, after every layer.

    On a plateau of the loss hidden states are much alike at all positions, and come apart when it ends.

    Args:
        model: A `Transformer`.
        task: Draws the examples.
        seed: Of the examples.
        examples: How many.
        where: `all` positions, or the `scored` ones.

    Returns:
        Dimensions layer, example, in [-1, 1]; NaN for an example with fewer than two such positions. Null: 0 for
        directions that have nothing to do with each other. Positions that hold the same token are alike by their
        embedding, so compare with the untrained model, the first step of a timeline.

    Source: arXiv 2506.13688 (representation collapse on plateaus). Differs: after every layer, all pairs of positions.
    """
    check_word("where", where, WHERE)
    model = as_transformer(model, "hidden_similarity needs")
    batch = task.batch(examples, seed)
    # The task's batch itself: a run on it is shared.
    mask = on_model(batch.scored if where == "scored" else torch.ones_like(batch.scored), model)
    rows = torch.stack([_similarity(stream.double(), mask) for stream in streams(model, batch)])
    return labelled(rows, ["layer", "example"])


@register_measure("qk_rank")
def qk_rank(model: Transformer, task: Task, seed: int) -> xr.DataArray:
    """Effective rank of every head's QK matrix; no examples, the weights alone.

    Args:
        model: The model.
        task: Not used.
        seed: Not used.

    Returns:
        Dimensions layer, head, in [1, d_head]; see `attribution.qk_effective_rank`. Along training its difference from
        the first step counts.
    """
    return attribution.qk_effective_rank(as_transformer(model, "qk_rank needs"))


def _similarity(stream: Tensor, mask: Tensor) -> Tensor:
    """`[batch]`: of unit vectors, |sum|^2 counts each pair twice, and each vector with itself once."""
    units = torch.nn.functional.normalize(stream, dim=-1) * mask[..., None]
    count = mask.sum(1).double()
    pairs = units.sum(1).square().sum(-1) - units.square().sum((1, 2))
    return torch.where(count > 1, pairs / (count * (count - 1)), float("nan"))
