"""Measures of what a model does: loss, accuracy, margin, clean and corrupted runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.core import Batch, Options, UnsupportedError, labelled, takes
from mechinterp.interventions import outputs, score_runs
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.tasks import ALL, Task

_AT_ONCE = 512
"""Examples per forward pass where only a score of the output is kept."""


@register_measure("loss")
def loss(model: nn.Module, task: Task, seed: int, *, examples: int = 128) -> xr.DataArray:
    """Loss by the task's groups of positions: nats for tokens, squared distance for real values.

    Args:
        model: The model.
        task: Its `groups` name the positions, for example `repeat` and `fresh`.
        seed: Of the examples.
        examples: How many.

    Returns:
        Dimensions group, example: the mean over the example's positions in the group, NaN where it has none.
    """
    batch = task.batch(examples, seed)
    values, width = _values(model, batch, task.loss)
    failure = wrong_answer(width, batch, min(task.groups(batch).values(), key=lambda mask: int(mask.sum())))
    return _by_group(values, task, batch, kind="heavy-tailed", failure=failure)


@register_measure("accuracy", examples_of="loss")
def accuracy(model: nn.Module, task: Task, seed: int, *, examples: int = 128) -> xr.DataArray:
    """Share of positions whose largest logit is the right answer, by group: dimensions group, example."""
    batch = task.batch(examples, seed)
    _check_tokens(batch, "accuracy")
    values, _ = _values(model, batch, lambda output, part: (output.argmax(-1) == part.targets).to(output.dtype))
    return _by_group(values, task, batch, kind="proportion")


@register_measure("margin", examples_of="loss")
def margin(model: nn.Module, task: Task, seed: int, *, examples: int = 128) -> xr.DataArray:
    """Logit of the right answer minus the largest other logit, by group: dimensions group, example."""
    batch, output = run_on_batch(model, task, seed, examples)
    _check_tokens(batch, "margin")
    index = batch.targets.clamp(min=0)[..., None]
    others = output.scatter(-1, index, float("-inf")).amax(-1)
    return _by_group(output.gather(-1, index)[..., 0] - others, task, batch)


@register_measure("pair_scores")
@takes("metric")
def pair_scores(
    model: nn.Module,
    task: Task,
    seed: int,
    *,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """The metric of the plain clean and the plain corrupted run, the gap that effects are shares of.

    Returns:
        Dimensions run (`clean`, `corrupted`), example.
    """
    options = options.for_model(model)
    runs = score_runs(model, task.pair(examples, seed, corruption), options=options)
    return labelled(torch.stack(runs), ["run", "example"], {"run": ["clean", "corrupted"]}, metric=options.metric_name)


def run_on_batch(model: nn.Module, task: Task, seed: int, examples: int) -> tuple[Batch, Tensor]:
    """A batch and the model's output on it, both on the CPU."""
    batch = task.batch(examples, seed)
    return batch, outputs(model, batch)


def wrong_answer(width: int, batch: Batch, mask: Tensor) -> float:
    """What one wrong answer adds to the mean loss of an example: that of knowing nothing, over its positions.

    Args:
        width: Of the output: tokens to choose from.
        batch: Its targets give the loss of answering zero.
        mask: The positions over which an example's mean is taken, bool `[batch, seq]`.
    """
    if batch.targets.is_floating_point():
        loss = float(batch.targets.reshape(*mask.shape, -1).square().sum(-1)[mask].mean())
    else:
        loss = math.log(width)
    return loss * len(mask) / max(int(mask.sum()), 1)


def _values(model: nn.Module, batch: Batch, score: Callable[[Tensor, Batch], Tensor]) -> tuple[Tensor, int]:
    """A score of the output at every position, `[batch, seq]`, and the output's width; some examples at a time."""
    if len(batch) <= _AT_ONCE:
        output = outputs(model, batch)
        return score(output, batch), output.shape[-1]
    parts = [_values(model, batch[start : start + _AT_ONCE], score) for start in range(0, len(batch), _AT_ONCE)]
    return torch.cat([values for values, _ in parts]), parts[0][1]


def _by_group(values: Tensor, task: Task, batch: Batch, **attrs: float | str) -> xr.DataArray:
    groups = task.groups(batch)
    rows = torch.stack([mean_over(values, mask) for mask in groups.values()])
    return labelled(rows, ["group", "example"], {"group": list(groups)}, **attrs)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the marked positions, `[batch]`; NaN where there are none."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(1) / mask.sum(1)


def _check_tokens(batch: Batch, name: str) -> None:
    if batch.targets.is_floating_point():
        raise UnsupportedError(f"{name} is defined for tokens, and the targets are real values: use 'loss'")
