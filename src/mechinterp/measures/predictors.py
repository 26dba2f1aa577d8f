"""Measures of a model beside the reference predictors of its task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.core import Batch, UnsupportedError, labelled, suggest
from mechinterp.core.memo import remembered
from mechinterp.measures.behaviour import mean_over, run_on_batch, wrong_answer
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.tasks import Predictor, Task


@register_measure("predictor_loss", examples_of="loss")
def predictor_loss(
    model: nn.Module, task: Task, seed: int, *, examples: int = 128, truth: str | None = None
) -> xr.DataArray:
    """Loss of the model beside the loss of each reference predictor, on the same scored positions.

    The gap between two predictors is what the better one's knowledge is worth; what lies between the model and the
    best of them is what theory does not explain.

    Args:
        model: The model.
        task: Has `predictors`.
        seed: Of the examples.
        examples: How many.
        truth: A predictor that knows what the examples were drawn from, such as `oracle` of Markov chains: then
            KL(truth || .) in nats, for real values the squared distance to it, takes the place of the loss.

    Returns:
        Dimensions forecaster (`model`, then the predictors), example.

    Raises:
        UnsupportedError: If the task has no predictors, or not this one.
    """
    predictors = _predictors(task, *([] if truth is None else [truth]))
    batch, output = run_on_batch(model, task, seed, examples)
    outputs = {"model": output, **{name: _prediction(predict, batch) for name, predict in predictors.items()}}
    rows = []
    for output in outputs.values():
        loss = task.loss(output, batch) if truth is None else _distance(outputs[truth], output, batch.targets)
        rows.append(mean_over(loss, batch.scored))
    attrs = {"kind": "heavy-tailed", "failure": wrong_answer(outputs["model"].shape[-1], batch, batch.scored)}
    data = torch.stack([row.double() for row in rows])
    return labelled(data, ["forecaster", "example"], {"forecaster": list(outputs)}, **attrs)


@register_measure("predictor_distance", examples_of="loss")
def predictor_distance(model: nn.Module, task: Task, seed: int, *, examples: int = EXAMPLES) -> xr.DataArray:
    """How far the model is from each of the task's reference predictors on the scored positions.

    Args:
        model: The model.
        task: Has `predictors`.
        seed: Of the examples.
        examples: How many.

    Returns:
        Dimensions predictor, example: KL(model || predictor) in nats for tokens, squared distance for real values;
        smallest at the predictor that the model is closest to. A model that knows more tokens than the task draws is
        compared by its probabilities among the task's, which would otherwise be infinitely far from every predictor.

    Raises:
        UnsupportedError: If the task has no predictors.
    """
    predictors = _predictors(task)
    batch, output = run_on_batch(model, task, seed, examples)
    rows = []
    for predict in predictors.values():
        theirs = _prediction(predict, batch).to(output)
        if batch.targets.is_floating_point():
            distance = (output - theirs).square().sum(-1)
        else:
            ours = output[..., : theirs.shape[-1]].log_softmax(-1)
            # Where the model gives a token no chance at all, the predictor's opinion of it does not count.
            chance = ours.exp()
            distance = torch.where(chance > 0, chance * (ours - theirs), torch.zeros_like(ours)).sum(-1)
        rows.append(mean_over(distance, batch.scored))
    attrs = {"kind": "heavy-tailed", "failure": wrong_answer(output.shape[-1], batch, batch.scored)}
    return labelled(torch.stack(rows), ["predictor", "example"], {"predictor": list(predictors)}, **attrs)


@register_measure("nearest_predictor", examples_of="loss")
def nearest_predictor(
    model: nn.Module,
    task: Task,
    seed: int,
    *,
    examples: int = EXAMPLES,
    predictors: Sequence[str] | None = None,
) -> xr.DataArray:
    """Which reference predictor the model is closest to: 1 there, 0 at the others; all NaN where none can be said.

    Args:
        model: The model.
        task: Has `predictors`.
        seed: Of the examples.
        examples: How many.
        predictors: Those that are compared; None for all.

    Returns:
        Dimension predictor. Close is a small mean of `predictor_distance`: KL(model || predictor), or squared distance.

    Raises:
        UnsupportedError: If the task has no predictors, or not these.
    """
    known = _predictors(task, *(predictors or ()))
    compared = list(predictors or known)
    mean = predictor_distance(model, task, seed, examples=examples).mean("example").sel(predictor=compared)
    nearest = (mean == mean.min()).astype(float)
    return nearest.where(mean.notnull().all())


def _prediction(predict: Predictor, batch: Batch) -> Tensor:
    return remembered("draws", (predict, batch), lambda: predict(batch))


def _predictors(task: Task, *needed: str) -> dict[str, Predictor]:
    """The task's reference predictors.

    Raises:
        UnsupportedError: If it has none, or not those that are needed.
    """
    predictors = task.predictors()
    if not predictors:
        raise UnsupportedError(f"task '{task.name}' has no reference predictors")
    for name in needed:
        if name not in predictors:
            raise UnsupportedError(f"task '{task.name}' has no predictor '{name}'.{suggest(name, predictors)}")
    return predictors


def _distance(truth: Tensor, output: Tensor, targets: Tensor) -> Tensor:
    """KL(truth || output) of log probabilities, squared distance of real values; at every position."""
    if targets.is_floating_point():
        return (output - truth).square().sum(-1)
    # Tokens that the task does not draw have no chance under the truth, and so no part in its distance.
    ours = output.log_softmax(-1)[..., : truth.shape[-1]]
    return (truth.exp() * (truth - ours)).sum(-1)
