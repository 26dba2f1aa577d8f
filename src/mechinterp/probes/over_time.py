"""Whether each latent can be read, and whether the model uses it, cheaply enough for every checkpoint."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from mechinterp.core import Metric, Site, UnsupportedError, derive_seed, labelled, resolve_metric
from mechinterp.interventions import as_transformer, on_model, streams
from mechinterp.models import Transformer
from mechinterp.probes.closed_form import latent_halves, ridge_agreement
from mechinterp.probes.effects import erasure_effects
from mechinterp.probes.erase import Eraser, erasers_with_null
from mechinterp.probes.rows import probed
from mechinterp.tasks import Task

EVIDENCE = ("score", "shuffled", "read", "effect", "effect_random", "used")
_CHUNK = 256


def read_and_erase(
    model: Transformer,
    task: Task,
    *,
    seed: int,
    examples: int,
    positions: int,
    metric: str | Metric | None = None,
) -> xr.DataArray:
    """How well each latent can be read after each layer, and what the model loses when it is erased there.

    Args:
        model: The model.
        task: Has latents.
        seed: Of split, positions, shuffled labels and random subspaces.
        examples: Sequences: one half is fitted on, the other scored and erased.
        positions: At most so many are fitted on, and as many scored, for each latent.
        metric: What erasure is judged by; None is `log_prob`, or `mse` for a model that writes values.

    Returns:
        Dimensions evidence, latent, layer, example. `score`: of a ridge probe, `shuffled`: with labels exchanged
        between sequences (both as `ridge_scores` has them), `read`: their difference. `effect`: the metric lost by
        erasing the latent (LEACE, fitted on the other half) at all positions of the example where it is defined,
        `effect_random`: by erasing as many random directions there (each example under one of three draws), `used`:
        their difference. NaN for examples that were fitted on, for a latent that cannot be probed on these examples,
        and for effects where more than half of the dimensions would go, since any such erasure destroys the stream.

    Raises:
        UnsupportedError: If the task has no latents.

    Source: LEACE (Belrose et al. 2023). `probe` has more nulls and the better probe, at one checkpoint.
    """
    if not task.latents:
        raise UnsupportedError(f"task '{task.name}' has no latents to probe")
    model = as_transformer(model, "probes need")
    batch = task.batch(examples, seed)
    _, score = resolve_metric(metric or ("mse" if model.config.outputs == "values" else "log_prob"))
    values = np.full((len(EVIDENCE), len(task.latents), model.config.n_layers, examples), np.nan)
    sites = [Site("resid_post", layer) for layer in range(model.config.n_layers)]
    here = on_model(batch, model)
    for number, name in enumerate(task.latents):
        halves = latent_halves(batch, name, positions, seed, model.config.causal)
        if halves is None:
            continue
        fit, ask, _ = halves
        erasers: list[list[Eraser]] = []
        for layer, stream in enumerate(streams(model, batch)):
            values[:2, number, layer] = ridge_agreement(stream, *halves)
            x = stream[fit.sequence.to(stream.device), fit.pos.to(stream.device)]
            erasers.append(erasers_with_null(x, fit.labels, derive_seed(seed, "erase", name, layer)))
        held = ask.sequences.to(here.device)
        mask = probed(here, here.latents[name], "defined")[held]
        lost = erasure_effects(model, here[held], score, sites, erasers, mask, _CHUNK)
        narrow = torch.tensor([2 * group[0].rank <= len(group[0].mean) for group in erasers])
        for row, part in ((3, "effect"), (4, "effect_random")):
            values[row, number][:, ask.sequences.cpu()] = torch.where(narrow[:, None], lost[part].cpu(), torch.nan)
    values[2], values[5] = values[0] - values[1], values[3] - values[4]
    coords = {"evidence": list(EVIDENCE), "latent": list(task.latents)}
    return labelled(values, ["evidence", "latent", "layer", "example"], coords)
