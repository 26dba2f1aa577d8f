"""Which component writes the answer (direct logit attribution), and at which depth it can be read (logit lens)."""

from __future__ import annotations

import math

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import (
    Batch,
    ConfigError,
    Graph,
    Metric,
    Options,
    Site,
    UnsupportedError,
    labelled,
    resolve_metric,
    takes,
)
from mechinterp.core.metrics import LINEAR_METRICS
from mechinterp.interventions import Activations, activations, on_model, source_values
from mechinterp.models import Transformer

_CHUNK = 64
"""Examples at a time: every source's output at every position is held in memory."""


@takes("metric", "inputs")
def logit_attribution(model: Transformer, batch: Batch, *, options: Options) -> xr.DataArray:
    """What each component adds to the answer's logit directly, not through later components.

    Args:
        model: Writes logits.
        batch: Scored positions count, averaged within an example.
        options: See `Options`; the metric is linear in the logits: `logit_diff`, `logit` or `centered_logit`.

    Returns:
        Dimensions component, example, in logits. Components are the graph's sources and `bias` (all biases of the
        model). They sum exactly to the metric, because the final norm's scale is frozen at its value in this
        run: with it frozen, norm and unembedding are linear. NaN for an example with no scored position.
        Attribute `chance` is the expectation for a component blind to the answer: 0 for right and wrong
        exchanged at random (`logit_diff`) or the answer drawn evenly from the vocabulary (`centered_logit`); a plain
        `logit` has none, as a common shift of all logits counts there.

    Raises:
        ConfigError: If the metric is unknown or not linear, or it is `logit_diff` and the batch has no wrong answers.
        UnsupportedError: If the model writes values, or reads its logits through hidden layers.
    """
    if model.config.outputs != "logits":
        raise UnsupportedError(
            f"logit attribution needs a model of logits, this one has outputs='{model.config.outputs}'"
        )
    if model.config.readout_layers:
        raise UnsupportedError("readout_layers > 0: nothing adds to a logit directly; use patch_nodes or logit_lens")
    name, metric = options.for_model(model).resolved_metric
    if name not in LINEAR_METRICS:
        raise ConfigError(f"logit attribution takes a metric that is linear in the logits: {', '.join(LINEAR_METRICS)}")
    graph = model.config.graph(options.inputs)
    parts = [
        _attribute(model, on_model(batch[start : start + _CHUNK], model), metric, graph)
        for start in range(0, len(batch), _CHUNK)
    ]
    components = [*map(str, graph.sources), "bias"]
    chance = math.nan if name == "logit" else 0.0
    attrs = {"metric": name, "method": "direct, final norm's scale frozen", "inputs": options.inputs, "chance": chance}
    return labelled(torch.cat(parts, 1), ["component", "example"], {"component": components}, **attrs)


@torch.no_grad()
def logit_lens(model: Transformer, batch: Batch, metric: str | Metric = "log_prob") -> xr.DataArray:
    """The metric that the model would reach if it stopped at each depth and read out the stream there.

    Args:
        model: The model.
        batch: Scored positions count.
        metric: Any metric of `core`; `kl` compares with the model's own output.

    Returns:
        Dimensions component, example. Components are the residual stream's sites from `L0.resid_pre` to the last
        layer's `resid_post`, where the value is the model's own. Each depth has its own scale in the final norm.
        Attribute `chance`: what equal logits score (NaN for metrics that have no such value).

    Source: nostalgebraist 2020, "logit lens".
    """
    name, score = resolve_metric(metric)
    scores = []
    for start in range(0, len(batch), _CHUNK):
        some = on_model(batch[start : start + _CHUNK], model)
        acts = activations(model, some.inputs)
        reference = model.read(acts.final)
        scores.append(torch.stack([score(model.read(resid), some, reference) for resid in _depths(model, acts)]))
    sites = []
    for layer in range(model.config.n_layers):
        sites += [Site("resid_pre", layer), *([Site("resid_mid", layer)] if model.config.d_mlp else [])]
    sites.append(Site("resid_post", model.config.n_layers - 1))
    size = model.config.features_out
    chance = {"log_prob": -math.log(size), "accuracy": 1 / size, "logit_diff": 0.0, "margin": 0.0}.get(name, math.nan)
    coords = {"component": [str(site) for site in sites]}
    return labelled(torch.cat(scores, 1), ["component", "example"], coords, metric=name, chance=chance)


@torch.no_grad()
def _attribute(model: Transformer, batch: Batch, metric: Metric, graph: Graph) -> Float[Tensor, "component batch"]:
    acts = activations(model, batch.inputs)
    per_logit = _logit_weights(metric, model.read(acts.final), batch)
    weight = per_logit @ model.W_U.T
    reader = _through_norm(model, weight, acts.final)
    parts = torch.einsum("cbsm,bsm->cb", source_values(model, acts, graph), reader)
    bias = torch.einsum("m,bsm->b", model.accumulated_bias(model.config.n_layers), reader)
    bias = bias + (per_logit @ model.b_U).sum(1)
    shift = getattr(model.ln_final, "b", None)
    if shift is not None:
        bias = bias + torch.einsum("m,bsm->b", shift, weight)
    return torch.where(batch.scored.any(1), torch.cat([parts, bias[None]]), math.nan)


def _logit_weights(metric: Metric, logits: Tensor, batch: Batch) -> Float[Tensor, "batch seq vocab"]:
    """The weight of each logit in a linear metric, which is the metric's gradient."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        (weights,) = torch.autograd.grad(metric(logits, batch, None).sum(), [logits])
    return weights


def _through_norm(model: Transformer, weight: Tensor, resid: Tensor) -> Float[Tensor, "batch seq d_model"]:
    """What a direction behind the final norm reads before it, with the norm's scale frozen at that of `resid`."""
    gain = getattr(model.ln_final, "w", None)
    if gain is None:
        return weight
    weight = weight * gain
    if model.config.normalization == "LN":
        resid = resid - resid.mean(-1, keepdim=True)
        weight = weight - weight.mean(-1, keepdim=True)
    return weight / (resid.square().mean(-1, keepdim=True) + model.config.norm_eps).sqrt()


def _depths(model: Transformer, acts: Activations) -> list[Tensor]:
    streams: list[Tensor] = []
    for layer in range(model.config.n_layers):
        streams += [acts.resid_pre[layer], *([acts.resid_mid[layer]] if model.config.d_mlp else [])]
    return [*streams, acts.final]
