"""Measures of in-context regression: a layer of linear attention against one step of gradient descent."""

from __future__ import annotations

from dataclasses import replace

import torch
import xarray as xr
from torch import nn

from mechinterp.core import UnsupportedError, labelled
from mechinterp.interventions import as_transformer, on_model, quiet
from mechinterp.known.regression import gradient_step as compare
from mechinterp.measures.registry import register_measure
from mechinterp.tasks import Regression, Task

_AT_ONCE = 8192


@register_measure("gradient_step")
def gradient_step(model: nn.Module, task: Task, seed: int, *, scale: float = 1.0) -> xr.DataArray:
    """What step of gradient descent a layer of linear attention does, by its weights.

    Args:
        model: One layer of linear attention, with nothing else.
        task: Regression; its pairs and noise are those that the step is taken on.
        seed: Of the sequences that predictions are compared on.
        scale: Of the inputs, for `expected`.

    Returns:
        Dimension quantity. `rate`: the step's, in units of the best one for this task, `task.rate`. `cosine`: of the
        effective matrix with the identity, blind to every other term of the prediction. `agreement`: cosine of whole
        predictions with those of the best step, all terms counted. `largest` and `smallest` eigenvalue of the matrix's
        symmetric part, in units of the best rate: how far the direction is that was learnt best, or least. `expected`:
        what theory says `regression_error` is for one step at this rate and nothing else.

    Raises:
        UnsupportedError: If the task is not regression, or the model has anything else.

    Source: von Oswald et al. 2023; for the error at any rate r, E[S] = I and E[S^2] = (1 + (d + 1) / N) I, S the mean
    of x x^T, give d (1 - 2 r + r^2 (1 + (d + 1 + noise^2) / N)). Inputs `scale` times as large make r `scale^2` times
    as large.
    """
    task = _regression(task)
    descent = compare(as_transformer(model, "reading off the step needs"), task.pairs, seed)
    rate = descent.rate * scale**2
    error = task.dim * scale**2 * (1 - 2 * rate + rate**2 / task.rate)
    numbers = {"rate": descent.rate / task.rate, "cosine": descent.cosine, "agreement": descent.agreement}
    values = torch.linalg.eigvalsh((descent.matrix + descent.matrix.T) / 2) / task.rate
    numbers |= {"largest": float(values[-1]), "smallest": float(values[0]), "expected": error / task.least_error}
    return labelled(
        torch.tensor(list(numbers.values()), dtype=torch.float64), ["quantity"], {"quantity": list(numbers)}
    )


@register_measure("regression_error")
def regression_error(
    model: nn.Module, task: Task, seed: int, *, examples: int = 65_536, scale: float = 1.0
) -> xr.DataArray:
    """Squared error at the query, in units of the least that one gradient step can have: dimension example.

    Args:
        model: The model.
        task: Regression; the unit is its `least_error`, d (d + 1) / (N + d + 1) without noise.
        seed: Of the examples.
        examples: How many. The error has heavy tails: 65,536 give its mean to about one per cent.
        scale: Inputs x, and with them y, are this many times as large as in training.

    Raises:
        UnsupportedError: If the task is not regression.
    """
    task = _regression(task)
    batch = task.batch(examples, seed)
    if scale != 1:
        batch = replace(batch, inputs=batch.inputs * scale, targets=batch.targets * scale)
    rows = []
    with quiet(model):
        for start in range(0, examples, _AT_ONCE):
            part = on_model(batch[start : start + _AT_ONCE], model)
            rows.append(task.loss(model(part.inputs), part)[:, -1].cpu())
    failure = float(batch.targets[:, -1].square().mean()) / task.least_error
    return labelled(torch.cat(rows).double() / task.least_error, ["example"], kind="heavy-tailed", failure=failure)


def _regression(task: Task) -> Regression:
    if not isinstance(task, Regression):
        raise UnsupportedError(f"this is defined for regression, and the task is '{task.name}'")
    return task
