"""Which heads play which role: chosen on one batch, scored on another, against the best heads of untrained models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechinterp.core import derive_seed
from mechinterp.measures import measure
from mechinterp.models import Transformer
from mechinterp.tasks import Task

ROLES: Mapping[str, str] = {"previous_token": "previous_token", "induction": "induction"}
"""Role -> the head score that it is told by. A role is not tied to a layer."""

SHARE = 0.5
"""A head shares a role if it scores more than this share of the best head's score, and above every untrained model."""


@dataclass(frozen=True, eq=False)
class Heads:
    """Heads by role, and what luck gives.

    Args:
        by_role: Role -> heads as `L1.H2`, the best first; empty where none beats the untrained models.
        best: Role -> the best head, whether or not it beats the untrained models.
        nulls: Score -> (mean, maximum) over untrained models of their best head's score.
    """

    by_role: Mapping[str, list[str]]
    best: Mapping[str, str]
    nulls: Mapping[str, tuple[float, float]]


def choose_heads(
    model: Transformer,
    task: Task,
    seed: int,
    examples: int,
    untrained: int,
    roles: Mapping[str, str] = ROLES,
    tell: Callable[[int], None] = lambda done: None,
) -> Heads:
    """Choose the heads of each role on a batch of their own.

    Args:
        model: The trained model.
        task: Draws the batches.
        seed: Of this batch, of the untrained models' weights and batch: none is the Timeline's.
        examples: Per batch.
        untrained: How many untrained models of the same configuration. The null of a head that was chosen as the best
            of all is the *best* of all heads of each.
        roles: Role -> head score.
        tell: Called with the number of untrained models done.
    """
    scores = measure("head_scores", examples=examples)
    chosen = scores(model, task, derive_seed(seed, "study", "choose")).mean("example")
    lucky = []
    for number in range(untrained):
        other = Transformer(model.config, derive_seed(seed, "study", "untrained", number)).to(model.device, model.dtype)
        found = scores(other, task, derive_seed(seed, "study", "null")).mean("example")
        lucky.append(found.max(["layer", "head"]))
        tell(number + 1)
    names = [str(name) for name in chosen["score"].values]
    null = np.stack([values.values for values in lucky])  # model, score
    nulls = {
        name: (float(null[:, i].mean()), float(null[:, i].max()))
        for i, name in enumerate(names)
        if np.isfinite(null[:, i]).all()
    }
    by_role, best = {}, {}
    for role, score in roles.items():
        if score not in nulls or not np.isfinite(chosen.sel(score=score)).any():
            continue  # undefined for this task: no repeated tokens, or no tokens at all
        ranked = _ranked(chosen.sel(score=score))
        best[role] = ranked[0][0]
        limit = max(nulls[score][1], SHARE * ranked[0][1])
        by_role[role] = [head for head, value in ranked if value > limit]
    return Heads(by_role, best, nulls)


def head_of(values: xr.DataArray, head: str) -> xr.DataArray:
    """One head's entry, `L1.H2`, of an array with layer and head."""
    layer, number = head.removeprefix("L").split(".H")
    return values.isel(layer=int(layer), head=int(number))


def _ranked(scores: xr.DataArray) -> list[tuple[str, float]]:
    values = scores.transpose("layer", "head").values
    heads = [(f"L{i}.H{j}", float(values[i, j])) for i in range(values.shape[0]) for j in range(values.shape[1])]
    return sorted(heads, key=lambda item: -np.nan_to_num(item[1], nan=-np.inf))
