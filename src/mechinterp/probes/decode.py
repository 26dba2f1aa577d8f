"""One call: can a hidden variable be decoded at a site, against its nulls, and does the model need it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import xarray as xr
from torch import Tensor, nn

from mechinterp.core import (
    Batch,
    ConfigError,
    HookedModel,
    Metric,
    Site,
    SiteError,
    derive_seed,
    labelled,
    resolve_metric,
    suggest,
)
from mechinterp.core.statistics import Interval
from mechinterp.interventions import as_transformer, on_model
from mechinterp.models import Transformer
from mechinterp.probes.effects import erasure_effects
from mechinterp.probes.erase import DRAWS, Eraser, erasers_with_null
from mechinterp.probes.linear import Rows, constant_score, mean_score, probe_score
from mechinterp.probes.rows import (
    ProbePlaces,
    choose_places,
    control_labels,
    features,
    no_control,
    probed,
    sequences_of,
    shuffled_labels,
)
from mechinterp.tasks import Task

_KINDS = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn",
    "mlp",
    "mlp_in",
    "mlp_pre",
    "mlp_post",
    "q",
    "k",
    "v",
    "z",
    "result",
)
PROBES = ("score", "untrained", "shuffled", "erased", "random_erased", "control")
_CHUNK = 256
"""Examples per forward pass."""


def probe(
    model: HookedModel | nn.Module,
    task: Task,
    target: str,
    *,
    site: str | Site = "resid_post",
    layer: int | Sequence[int] | None = None,
    examples: int = 512,
    seed: int = 0,
    where: str = "defined",
    fit_on: str | None = None,
    score_on: str | None = None,
    metric: str | Metric | None = None,
    with_nulls: bool = True,
    erase: bool = True,
    positions: int = 4096,
) -> xr.Dataset:
    """How well a linear probe reads a hidden variable off a site, beside its nulls, and what erasing it costs.

    Args:
        model: The model.
        task: Draws the sequences and knows the variable.
        target: Which of the task's latents; integers are classes (-1 undefined), floats values (NaN undefined).
        site: A kind of site, as `resid_post`, `z`, `mlp_post`; or one address, as `L1.H3.z`. A kind with heads reads
            all heads of the layer together.
        layer: Layers to probe; None for all.
        examples: Sequences drawn. One half is fitted on, the other scored; equal sequences never lie in both. Where a
            sequence to score begins like one to fit on, its positions up to there are not scored; the attribute
            `positions_left_out` is their number.
        seed: Of everything random here.
        where: `defined`: probe and erase at all positions where the variable is defined; `scored`: at the scored ones
            among them.
        fit_on: Fit on sequences of this group of the task alone (`train` of modular addition, say); None for all.
        score_on: Score sequences of this group alone, as `test`.
        metric: What erasure is judged by; None is `log_prob`, or `mse` for a model that writes values.
        with_nulls: Whether to compute `untrained`, `shuffled` and `control`; they are NaN otherwise.
        erase: Whether to compute `erased`, `random_erased` and the effects; they are NaN otherwise.
        positions: At most so many positions are fitted on, and as many scored, drawn at random.

    Returns:
        Dimension layer: `score`, held-out accuracy of a logistic probe or R2 of a ridge probe, and likewise
        `untrained` (same architecture, other initial weights), `shuffled` (labels exchanged between sequences at
        each position: what position alone tells stays in; mean of three), `erased` (a fresh probe after LEACE),
        `random_erased` (after erasing `rank` random directions), `control` (labels drawn at random for each token
        type; mean of three). Each with
        `_low` and `_high`: a 95% interval over sequences. `selectivity` = score - control (Hewitt & Liang 2019), and
        `control`, only where token types outnumber the site's dimensions; else NaN, and the attribute
        `selectivity_reason` says why. `rank`: directions erased, at most classes - 1.
        Where that is more than half of the site, effects say little, and the attribute `erasure_reason` says so.
        No dimension: `majority`, the most frequent class's (or the mean's) held-out score.
        Dimensions layer, example: `effect`, the metric lost by erasing the variable where it is probed (positive:
        the model does better with it), and `effect_random`, by erasing `rank` random directions there (each example
        under one of three draws). Dimension example: `clean`, the metric of the unedited model. Examples are the
        held-out sequences.

    Raises:
        ConfigError: If the task has no such latent or group, the latent one value, or there is too little to split.
        SiteError: If the model has no such site, or a probe cannot read it position by position.

    Source: erasure by LEACE (Belrose et al. 2023). A decodable variable need not be used: judge by `effect`.
    """
    model = as_transformer(model, "probes need")
    sites = _sites(model, site, layer)
    batch = on_model(task.batch(examples, derive_seed(seed, "probe", "examples")), model)
    labels = _latent(batch, task, target)
    allowed = (sequences_of(batch, task, fit_on), sequences_of(batch, task, score_on))
    train, test = choose_places(batch, labels, where, positions, seed, model.config.causal, allowed)
    constant = constant_score(_rows(train, None), _rows(test, None))
    results: dict[str, list[Interval]] = {name: [] for name in PROBES}
    erasers: list[list[Eraser]] = []
    reasons = []
    activations = features(model, batch.inputs, sites, (train, test), _CHUNK)
    untrained = features(_untrained(model, seed), batch.inputs, sites, (train, test), _CHUNK) if with_nulls else None
    for number, (x_train, x_test) in enumerate(activations):
        fit, ask = _rows(train, x_train), _rows(test, x_test)
        results["score"].append(probe_score(fit, ask))
        reasons.append(no_control(fit))
        if untrained is not None:
            fit_other, ask_other = (_rows(part, x) for part, x in zip((train, test), untrained[number], strict=True))
            results["untrained"].append(probe_score(fit_other, ask_other))
            shuffles = (replace(fit, y=shuffled_labels(train, derive_seed(seed, draw))) for draw in range(DRAWS))
            results["shuffled"].append(mean_score([probe_score(one, ask) for one in shuffles]))
            if not reasons[-1]:
                controls = (control_labels(fit, ask, derive_seed(seed, draw)) for draw in range(DRAWS))
                results["control"].append(mean_score([probe_score(*one) for one in controls]))
        if erase:
            erasers.append(
                erasers_with_null(x_train, train.labels, derive_seed(seed, "probe", "random", str(sites[number])))
            )
            for name, eraser in zip(("erased", "random_erased"), erasers[-1], strict=False):
                results[name].append(probe_score(_rows(train, eraser(x_train)), _rows(test, eraser(x_test))))
        for scores in results.values():
            scores += [Interval.missing()] * (number + 1 - len(scores))
    held = batch[test.sequences]
    name, score = resolve_metric(metric or ("mse" if model.config.outputs == "values" else "log_prob"))
    effects = erasure_effects(model, held, score, sites, erasers, probed(batch, labels, where)[test.sequences], _CHUNK)
    attrs = {
        "target": target, "site": str(site), "where": where, "metric": name, "seed": seed, "examples": examples,
        "fit_on": fit_on or "all", "score_on": score_on or "all",
        "probe": "logistic, accuracy" if train.labels.ndim == 1 else "ridge, R2",
        "positions_fitted": len(train.labels), "positions_scored": len(test.labels),
        "positions_left_out": test.left_out,
        "selectivity_reason": next((reason for reason in reasons if reason), ""),
        "erasure_reason": next((reason for group in erasers if (reason := _too_wide(group[0]))), ""),
    }  # fmt: skip
    return _dataset(sites, results, [group[0].rank for group in erasers], constant, effects, attrs)


def _sites(model: Transformer, site: str | Site, layer: int | Sequence[int] | None) -> list[Site]:
    """One site per layer, checked."""
    kinds = {kind: kind for kind in _KINDS}
    kinds |= {"attn_out": "attn", "mlp_out": "mlp", "post": "mlp_post", "neurons": "mlp_post"}
    if isinstance(site, str) and site in kinds:
        layers = range(model.config.n_layers) if layer is None else [layer] if isinstance(layer, int) else list(layer)
        chosen = [Site(kinds[site], number) for number in layers]
    else:
        one = Site.parse(site)
        if one.kind not in _KINDS:
            raise SiteError(f"no probe reads '{site}' position by position.{suggest(one.kind, _KINDS)}")
        if layer is not None:
            raise ConfigError(f"site '{one}' has its layer already: leave layer out, or ask for site='{one.kind}'")
        chosen = [one]
    if not chosen:
        raise ConfigError("layer=[] leaves nothing to probe: name some layers, or None for all")
    return [model.config.graph().check_site(one) for one in chosen]


def _untrained(model: Transformer, seed: int) -> Transformer:
    return Transformer(model.config, derive_seed(seed, "probe", "untrained")).to(model.device, model.dtype)


def _latent(batch: Batch, task: Task, target: str) -> Tensor:
    if target not in batch.latents:
        raise ConfigError(f"task '{task.name}' has no latent '{target}'.{suggest(target, batch.latents)}")
    return batch.latents[target]


def _rows(places: ProbePlaces, x: Tensor | None) -> Rows:
    values = np.zeros((len(places.labels), 0)) if x is None else x.cpu().numpy()
    return Rows(values, places.labels, places.sequence.cpu().numpy(), places.tokens)


def _too_wide(eraser: Eraser) -> str:
    """Why the effect of an erasure says little; empty where it says something."""
    rank, width = eraser.rank, len(eraser.mean)
    return f"{rank} of {width} dimensions go: any erasure of this rank destroys the site" if rank > width / 2 else ""


def _dataset(
    sites: list[Site],
    results: dict[str, list[Interval]],
    ranks: list[int],
    constant: float,
    effects: dict[str, Tensor],
    attrs: dict[str, str | int],
) -> xr.Dataset:
    layers = {"layer": [site.layer for site in sites]}
    parts = {}
    for name, scores in results.items():
        for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            parts[name + suffix] = labelled(np.array([asdict(one)[key] for one in scores]), ["layer"], layers)
    parts["selectivity"] = parts["score"] - parts["control"]
    parts["majority"] = labelled(np.array(constant), [])
    parts["rank"] = labelled(np.array(ranks or [0] * len(sites)), ["layer"], layers)
    parts["clean"] = labelled(effects["clean"], ["example"])
    parts["effect"] = labelled(effects["effect"], ["layer", "example"], layers)
    parts["effect_random"] = labelled(effects["effect_random"], ["layer", "example"], layers)
    return xr.Dataset(parts, attrs={**attrs, **parts["majority"].attrs})
