"""What type a head is (previous-token head, induction head): the score it is best at, beside untrained models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from mechinterp.attribution.head_scores import SCORES, head_scores
from mechinterp.core import Batch, UnsupportedError, derive_seed
from mechinterp.core.statistics import false_discovery, p_value
from mechinterp.models import Transformer
from mechinterp.tasks import Task

HEAD_TYPES: tuple[str, ...] = tuple(SCORES)
"""Head types; each has the name of the score that defines it. A type is not tied to a layer."""

SAME_TYPE_SHARE = 0.5
"""A head of a type has more than this share of the best head's score."""
TYPE_LEVEL = 0.01
"""A head of a type has at most this p-value among the best heads of untrained models; it beats them all where they are
too few for that."""


def head_types(
    model: Transformer,
    task: Task,
    *,
    seed: int,
    examples: int = 64,
    untrained: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> xr.Dataset:
    """Score every head for every type on one batch, beside the best heads of untrained models on the same batch.

    Batches differ by more than untrained models do, so the null must see the very examples that the model saw. The null
    is the *best* of all heads of each untrained model, so a p-value holds for all heads of the model together. As the
    best head is chosen here, its score is to be reported on other examples.

    Args:
        model: The trained model.
        task: Draws the batches.
        seed: The examples are those that `measure("head_scores")` draws with this seed.
        examples: Sequences per batch.
        untrained: Number of untrained models of the same configuration; their weights derive from the seed.
        progress: Called with the number of untrained models that are scored.

    Returns:
        By `score`, of the types that are defined for the task (it repeats tokens, or has tokens at all):
        `head_score` [score, layer, head], means over examples;
        `null` [score, untrained]: the largest score of each untrained model;
        `p_value` [score, layer, head]: `(1 + #{null >= score}) / (1 + untrained)`, NaN without untrained models;
        `single_p_value` [score, layer, head]: of the head by itself, beside all heads of its layer in untrained models;
        `q_value` [score, layer, head]: the same, adjusted for the number of heads looked at (`false_discovery`);
        `of_type` [score, layer, head], bool: which heads are of the type.
    """
    batch = task.batch(examples, derive_seed(seed, "measure", "head_scores"))
    scores = _means(model, batch)
    others = np.full((untrained, *scores.shape), np.nan)
    for number in range(untrained):
        others[number] = _means(model.untrained(derive_seed(seed, "untrained", number)), batch).values
        progress(number + 1)
    finite = np.isfinite(scores.values).all((1, 2)) & np.isfinite(others).all((0, 2, 3))
    scores, others = scores[finite], others[:, finite]
    null = others.max((2, 3)).T
    p, single = (scores.copy(data=np.zeros(scores.shape)) for _ in range(2))
    for (score, layer, head), value in np.ndenumerate(scores.values):
        p[score, layer, head] = p_value(float(value), null[score])
        single[score, layer, head] = p_value(float(value), others[:, score, layer].ravel())
    looked = np.array([false_discovery(row.ravel()) for row in single.values]).reshape(scores.shape)
    of_type = scores > SAME_TYPE_SHARE * scores.max(["layer", "head"])
    return xr.Dataset(
        {
            "head_score": scores,
            "null": (("score", "untrained"), null),
            "p_value": p,
            "single_p_value": single,
            "q_value": single.copy(data=looked),
            "of_type": of_type & (p <= max(TYPE_LEVEL, 1 / (1 + untrained))) if untrained else of_type,
        },
        attrs={"seed": seed, "examples": examples},
    )


def heads_of_type(types: xr.Dataset, name: str) -> list[str]:
    """The heads of one type, as `L1.H2`, the best first.

    Args:
        types: The result of `head_types`.
        name: The type.

    Raises:
        UnsupportedError: If the type is not defined for the task.
    """
    of_type = _of(types["of_type"], name)
    return [head for head in _ranked(types, name) if bool(head_entry(of_type, head))]


def best_head(types: xr.Dataset, name: str) -> str:
    """The head that scores highest for a type, as `L1.H2`, whether or not it beats the untrained models.

    Raises:
        UnsupportedError: If the type is not defined for the task.
    """
    return _ranked(types, name)[0]


def head_entry(values: xr.DataArray, head: str) -> xr.DataArray:
    """One head's entry, `L1.H2`, of an array over layer and head."""
    layer, number = head.removeprefix("L").split(".H")
    return values.isel(layer=int(layer), head=int(number)).drop_vars(["layer", "head"], errors="ignore")


def _means(model: Transformer, batch: Batch) -> xr.DataArray:
    scores = head_scores(model, batch)
    return scores.transpose("score", "layer", "head", "example").mean("example")


def _ranked(types: xr.Dataset, name: str) -> list[str]:
    """All heads, by falling score; equal ones in the model's order."""
    scores = _of(types["head_score"], name).transpose("layer", "head").values
    order = np.argsort(-scores.ravel(), kind="stable")
    return [f"L{index // scores.shape[1]}.H{index % scores.shape[1]}" for index in order]


def _of(values: xr.DataArray, name: str) -> xr.DataArray:
    if name not in values["score"].values:
        raise UnsupportedError(f"the head type '{name}' is undefined here: its score is NaN for some head")
    return values.sel(score=name, drop=True)
