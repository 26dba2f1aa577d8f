"""Measures that hold a model against reference predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mechinterp.core import UnsupportedError, labelled, suggest
from mechinterp.interventions import on_model, quiet
from mechinterp.measures.behaviour import predictor_distance, wrong_answer
from mechinterp.measures.registry import register_measure
from mechinterp.tasks import Task


@register_measure("predictor_loss")
def predictor_loss(model: Any, task: Task, seed: int, examples: int = 128, truth: str | None = None) -> xr.DataArray:
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
    predictors = task.predictors()
    if not predictors:
        raise UnsupportedError(f"task '{task.name}' has no reference predictors")
    if truth is not None and truth not in predictors:
        raise UnsupportedError(f"task '{task.name}' has no predictor '{truth}'.{suggest(truth, predictors)}")
    batch = task.batch(examples, seed)
    given = {"model": _run(model, batch.inputs), **{name: predict(batch) for name, predict in predictors.items()}}
    rows = []
    for output in given.values():
        loss = task.loss(output, batch) if truth is None else _distance(given[truth], output, batch.targets)
        rows.append(torch.where(batch.scored, loss, 0.0).sum(1) / batch.scored.sum(1))
    attrs = {"kind": "heavy-tailed", "failure": wrong_answer(given["model"].shape[-1], batch, batch.scored)}
    data = torch.stack([row.double() for row in rows])
    return labelled(data, ["forecaster", "example"], {"forecaster": list(given)}, **attrs)


@register_measure("nearest_predictor")
def nearest_predictor(
    model: Any, task: Task, seed: int, examples: int = 64, predictors: Sequence[str] | None = None
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
    mean = predictor_distance(model, task, seed, examples).mean("example")
    known = mean["predictor"].values.tolist()
    unknown = [name for name in predictors or () if name not in known]
    if unknown:
        raise UnsupportedError(f"task '{task.name}' has no predictor '{unknown[0]}'.{suggest(unknown[0], known)}")
    mean = mean if predictors is None else mean.sel(predictor=list(predictors))
    nearest = (mean == mean.min()).astype(float)
    return nearest.where(mean.notnull().all())


def _run(model: Any, inputs: Tensor) -> Tensor:
    with quiet(model):
        return model(on_model(inputs, model)).detach().cpu()


def _distance(truth: Tensor, output: Tensor, targets: Tensor) -> Tensor:
    """KL(truth || output) of log probabilities, squared distance of real values; at every position."""
    if targets.is_floating_point():
        return (output - truth).square().sum(-1)
    return (truth.exp() * (truth - output.log_softmax(-1))).sum(-1)
