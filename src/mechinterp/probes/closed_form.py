"""Ridge probes of all hidden variables at all layers in closed form: cheap enough for every checkpoint."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Batch, ConfigError, UnsupportedError, derive_seed, labelled
from mechinterp.core.memo import remembered
from mechinterp.interventions import as_transformer, streams
from mechinterp.models import Transformer
from mechinterp.probes.linear import RIDGE, standardised
from mechinterp.probes.rows import ProbePlaces, choose_places, shuffled_labels
from mechinterp.tasks import Task

RIDGE_ESTIMATES = ("score", "shuffled")


def ridge_scores(model: Transformer, task: Task, *, seed: int, examples: int, positions: int) -> xr.DataArray:
    """How well each latent of a task can be read after each layer, on sequences that the probe was not fitted to.

    A class is the largest of the ridge regressions on its indicators. `probe` fits the better logistic one, erases
    what it finds, and has more nulls; the untrained model's score is the one at the first step.

    Args:
        model: The model.
        task: Has latents.
        seed: Of split, positions and shuffled labels.
        examples: Sequences.
        positions: At most so many are fitted on, and as many scored, for each latent.

    Returns:
        Dimensions estimate, latent, layer, example: accuracy of classes, R2 of values (an example's part, whose mean is
        R2); `shuffled` with labels exchanged between the sequences at each position. NaN for an example that is not
        scored, and for a latent that cannot be probed on these examples.

    Raises:
        UnsupportedError: If the task has no latents.
    """
    if not task.latents:
        raise UnsupportedError(f"task '{task.name}' has no latents to probe")
    model = as_transformer(model, "probes need")
    batch = task.batch(examples, seed)
    values = np.full((len(RIDGE_ESTIMATES), len(task.latents), model.config.n_layers, examples), np.nan)
    for number, name in enumerate(task.latents):
        halves = latent_halves(batch, name, positions, seed, model.config.causal)
        if halves is None:
            continue
        for layer, stream in enumerate(streams(model, batch)):
            values[:, number, layer] = ridge_agreement(stream, *halves)
    coords = {"estimate": list(RIDGE_ESTIMATES), "latent": list(task.latents)}
    return labelled(values, ["estimate", "latent", "layer", "example"], coords)


_Halves = tuple[ProbePlaces, ProbePlaces, np.ndarray]


def latent_halves(batch: Batch, name: str, positions: int, seed: int, causal: bool) -> _Halves | None:
    """Places to fit on and to score, and the shuffled labels of the first; None where there is too little to split.

    They depend on no model, so along training they are made once.
    """
    settings = (batch, name, positions, seed, causal)
    return remembered("draws", ("ridge places", *settings), partial(_halves, *settings))


def _halves(batch: Batch, name: str, positions: int, seed: int, causal: bool) -> _Halves | None:
    try:
        places = derive_seed(seed, "ridge", name)
        fit, ask = choose_places(batch, batch.latents[name], "defined", positions, places, causal)
    except ConfigError:
        return None
    return fit, ask, shuffled_labels(fit, derive_seed(seed, "ridge", "shuffled", name))


def ridge_agreement(
    stream: Float[Tensor, "batch seq d"], fit: ProbePlaces, ask: ProbePlaces, shuffled: np.ndarray
) -> list[np.ndarray]:
    """The score of the true labels and of the shuffled ones on each example; both share the decomposition."""
    rows = (stream[one.sequence.to(stream.device), one.pos.to(stream.device)] for one in (fit, ask))
    x, held_out = standardised(*(one.double().cpu().numpy() for one in rows))
    targets, classes = _columns(fit.labels, shuffled)
    middle = targets.mean(0)
    gram = x.T @ x + RIDGE * np.eye(x.shape[1])
    guesses = held_out @ np.linalg.solve(gram, x.T @ (targets - middle)) + middle
    sequence = ask.sequence.cpu().numpy()
    return [
        _by_example(_agreement(part, ask.labels, classes), sequence, len(stream))
        for part in np.split(guesses, 2, axis=1)
    ]


def _by_example(rows: np.ndarray, sequence: np.ndarray, examples: int) -> np.ndarray:
    """The mean of each example's rows; NaN where it has none."""
    count = np.bincount(sequence, minlength=examples)
    total = np.bincount(sequence, weights=rows, minlength=examples)
    return np.divide(total, count, out=np.full(examples, np.nan), where=count > 0)


def _columns(labels: np.ndarray, shuffled: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Indicators of classes, or values, of both sets of labels side by side; and the classes."""
    if labels.ndim > 1:
        return np.concatenate([labels, shuffled], 1), None
    classes = np.unique(labels)
    return np.concatenate([one[:, None] == classes for one in (labels, shuffled)], 1).astype(float), classes


def _agreement(guesses: np.ndarray, labels: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """At each row whether the largest column is right, or its share of R2 (the mean over rows and columns)."""
    if classes is not None:
        return (classes[guesses.argmax(1)] == labels).astype(float)
    spread = labels.var(0)
    return (1 - (guesses - labels) ** 2 / np.where(spread > 0, spread, np.nan)).mean(1)
