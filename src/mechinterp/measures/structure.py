"""Measures of what patterns and weights suggest, and of what probes can read."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from torch import nn

from mechinterp import attribution, probes
from mechinterp.core import ConfigError, HookedModel, suggest
from mechinterp.interventions import as_transformer
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.tasks import Task


@register_measure("head_scores")
def head_scores(model: HookedModel, task: Task, seed: int, *, examples: int = EXAMPLES) -> xr.DataArray:
    """Previous-token, induction and duplicate-token score of every head: dimensions score, layer, head, example.

    Beside them stands chance only where asked for (`attribution.head_score_chance`); it does not depend on the model.
    """
    return attribution.head_scores(model, task.batch(examples, seed))


@register_measure("copying")
def copying(
    model: nn.Module,
    task: Task,
    seed: int,
    *,
    score: str = "eigenvalue",
    quantity: str = "copying",
    permutations: int = 50,
) -> xr.DataArray:
    """Copying score of every head's OV circuit; no examples, the weights alone.

    Args:
        model: The model.
        task: Not used.
        seed: Of the permutations.
        score: `eigenvalue` or `rank`.
        quantity: `copying`, `chance` or `z` (standard deviations above chance).
        permutations: Random relabellings behind `chance` and `z`.

    Returns:
        Dimensions layer, head.
    """
    model = as_transformer(model, "scores of weights need")
    scores = attribution.copying_scores(model, permutations=permutations, seed=seed)
    if score not in scores["score"].values:
        raise ConfigError(f"no copying score '{score}'.{suggest(score, scores['score'].values.tolist())}")
    return _pick(scores, quantity).sel(score=score, drop=True)


@register_measure("composition")
def composition(model: nn.Module, task: Task, seed: int, *, quantity: str = "z", draws: int = 100) -> xr.DataArray:
    """Q-, K- and V-composition of all pairs of heads; no examples, the weights alone.

    Args:
        model: Two layers or more.
        task: Not used.
        seed: Of the random heads that make the null.
        quantity: `z` (standard deviations above random heads) or `composition`.
        draws: Random pairs of heads.

    Returns:
        Dimension edge.
    """
    model = as_transformer(model, "scores of weights need")
    return _pick(attribution.composition(model, draws=draws, seed=seed), quantity)


@register_measure("probe")
def probe(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    target: str,
    site: str = "resid_post",
    layer: int | Sequence[int] | None = None,
    examples: int = 256,
    with_nulls: bool = True,
    erase: bool = False,
    positions: int = 2048,
    fit_on: str | None = None,
    score_on: str | None = None,
) -> xr.DataArray:
    """Held-out score of a linear probe, beside its nulls.

    Args:
        model: The model.
        task: Has the latent.
        seed: Of everything random in it.
        target: One of the task's latents.
        site: A kind of site, or one address.
        layer: Layers; None for all.
        examples: Sequences.
        with_nulls: Whether to compute untrained, shuffled and control.
        erase: Whether to compute the scores after erasure.
        positions: At most so many positions are fitted on.
        fit_on: A group of the task's positions: only sequences that have some are fitted on; None for all.
        score_on: Likewise for what is scored.

    Returns:
        Dimensions estimate (`score`, `untrained`, `shuffled`, `erased`, `random_erased`, `control`), layer.
    """
    scores = probes.probe(
        model, task, target, site=site, layer=layer, examples=examples, seed=seed, with_nulls=with_nulls, erase=erase,
        positions=positions, fit_on=fit_on, score_on=score_on,
    )  # fmt: skip
    return scores[list(probes.PROBES)].to_array("estimate").reset_coords(drop=True)


@register_measure("ridge_probes", examples_of="loss")
def ridge_probes(model: nn.Module, task: Task, seed: int, *, examples: int = 128, positions: int = 512) -> xr.DataArray:
    """How well every latent can be read after every layer by a ridge probe in closed form, beside shuffled labels.

    Args:
        model: The model.
        task: Has latents.
        seed: Of everything random in it.
        examples: Sequences.
        positions: At most so many are fitted on, and as many scored.

    Returns:
        Dimensions estimate (`score`, `shuffled`), latent, layer, example: held-out accuracy, or R2 of real values; NaN
        for the examples that were fitted on.
    """
    model = as_transformer(model, "probes need")
    return probes.ridge_scores(model, task, seed=seed, examples=examples, positions=positions)


@register_measure("latent_use", examples_of="loss")
def latent_use(
    model: nn.Module,
    task: Task,
    seed: int,
    *,
    examples: int = 128,
    positions: int = 512,
    metric: str | None = None,
) -> xr.DataArray:
    """How well every latent can be read after every layer, and what erasing it there costs, each beside its null.

    `studies.read_and_used` says of a timeline from which step on a latent can be read, and from which it is used.

    Args:
        model: The model.
        task: Has latents.
        seed: Of everything random in it.
        examples: Sequences: one half is fitted on, the other scored and erased.
        positions: At most so many are fitted on, and as many scored.
        metric: What erasure is judged by; `log_prob`, or `mse` for real values.

    Returns:
        Dimensions evidence (`score`, `shuffled`, `read` = their difference, `effect`, `effect_random`, `used` = their
        difference), latent, layer, example; see `probes.read_and_erase`.
    """
    model = as_transformer(model, "erasing what probes read needs")
    return probes.read_and_erase(model, task, seed=seed, examples=examples, positions=positions, metric=metric)


def _pick(scores: xr.Dataset, quantity: str) -> xr.DataArray:
    if quantity not in scores.data_vars:
        raise ConfigError(f"no quantity '{quantity}'.{suggest(quantity, [str(name) for name in scores.data_vars])}")
    return scores[quantity]
