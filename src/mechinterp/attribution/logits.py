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
    Metric,
    Site,
    UnsupportedError,
    labelled,
    resolve_metric,
    suggest,
)
from mechinterp.interventions import Activations, activations, source_values
from mechinterp.models import Transformer
from mechinterp.models.norm import EPS

LOGIT_METRICS = ("logit_diff", "logit", "centered_logit")
_CHUNK = 64
"""Examples at a time: every source's output at every position is held in memory."""


def logit_attribution(
    model: Transformer, batch: Batch, metric: str = "logit_diff", inputs: str = "merged"
) -> xr.DataArray:
    """What each component adds to the answer's logit directly, not through later components.

    Args:
        model: Writes logits.
        batch: Scored positions count, averaged within an example.
        metric: `logit_diff` (right minus `batch.wrong`), `logit` (of the right answer), or `centered_logit` (the
            right answer's above the mean over the vocabulary, which a shift of all logits does not change).
        inputs: `merged` takes embedding and positions as one source, `split` as two.

    Returns:
        Dimensions component, example, in logits. Components are the graph's sources and `bias` (all biases of the
        model; nobody's). They sum exactly to the metric, because the final norm's scale is frozen at its value in this
        run: with it frozen, norm and unembedding are linear. NaN for an example with no scored position.
        Attribute `chance` is the expectation for a component blind to the answer: 0 for right and wrong
        exchanged at random (`logit_diff`) or the answer drawn evenly from the vocabulary (`centered_logit`); a plain
        `logit` has none, as a common shift of all logits counts there.

    Raises:
        ConfigError: If the metric is unknown, or it is `logit_diff` and the batch has no wrong answers.
        UnsupportedError: If the model writes values, or reads its logits through hidden layers.
    """
    if metric not in LOGIT_METRICS:
        raise ConfigError(f"no logit metric '{metric}'.{suggest(metric, LOGIT_METRICS)}")
    if model.config.outputs != "logits":
        raise UnsupportedError(
            f"logit attribution needs a model of logits, this one has outputs='{model.config.outputs}'"
        )
    if model.config.readout_layers:
        raise UnsupportedError("readout_layers > 0: nothing adds to a logit directly; use patch_nodes or logit_lens")
    parts = [_attribute(model, batch[start : start + _CHUNK], metric, inputs) for start in range(0, len(batch), _CHUNK)]
    names = [str(site) for site in model.config.graph(inputs).sources] + ["bias"]
    chance = math.nan if metric == "logit" else 0.0
    attrs = {"metric": metric, "method": "direct, final norm's scale frozen", "inputs": inputs, "chance": chance}
    return labelled(torch.cat(parts, 1), ["component", "example"], {"component": names}, **attrs)


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
        some = batch[start : start + _CHUNK]
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
def _attribute(model: Transformer, batch: Batch, metric: str, inputs: str) -> Float[Tensor, "component batch"]:
    acts = activations(model, batch.inputs)
    weight, offset = _answer_direction(model, batch, metric)
    share = batch.scored.to(weight.dtype) / batch.scored.sum(1, keepdim=True)
    weight, offset = weight * share[..., None], (offset * share).sum(1)
    reader = _through_norm(model, weight, acts.final)
    parts = torch.einsum("cbsm,bsm->cb", source_values(model, acts, model.config.graph(inputs)), reader)
    bias = torch.einsum("m,bsm->b", _stream_bias(model), reader) + offset
    shift = getattr(model.ln_final, "b", None)
    if shift is not None:
        bias = bias + torch.einsum("m,bsm->b", shift, weight)
    return torch.cat([parts, bias[None]])


def _answer_direction(model: Transformer, batch: Batch, metric: str) -> tuple[Tensor, Tensor]:
    """The metric as a linear function of the normalised stream: `[batch, seq, d_model]` and `[batch, seq]`."""

    def column(tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = tokens.clamp(min=0)
        return model.W_U.T[tokens], model.b_U[tokens]

    weight, offset = column(batch.targets)
    if metric == "logit_diff":
        if batch.wrong is None:
            raise ConfigError("logit_diff needs batch.wrong (a Pair's clean batch has it); use metric='centered_logit'")
        other, other_offset = column(batch.wrong)
    elif metric == "centered_logit":
        other, other_offset = model.W_U.mean(1), model.b_U.mean()
    else:
        return weight, offset
    return weight - other, offset - other_offset


def _through_norm(model: Transformer, weight: Tensor, resid: Tensor) -> Float[Tensor, "batch seq d_model"]:
    """What a direction behind the final norm reads before it, with the norm's scale frozen at that of `resid`."""
    gain = getattr(model.ln_final, "w", None)
    if gain is None:
        return weight
    weight = weight * gain
    if model.config.normalization == "LN":
        resid = resid - resid.mean(-1, keepdim=True)
        weight = weight - weight.mean(-1, keepdim=True)
    return weight / (resid.square().mean(-1, keepdim=True) + EPS).sqrt()


def _stream_bias(model: Transformer) -> Float[Tensor, " d_model"]:
    """The sum of all biases that layers add to the residual stream."""
    biases = [*model.b_O]
    if model.config.d_mlp:
        biases += [block.mlp.b_out for block in model.blocks]  # type: ignore[union-attr]
    return torch.stack(biases).sum(0)


def _depths(model: Transformer, acts: Activations) -> list[Tensor]:
    streams: list[Tensor] = []
    for layer in range(model.config.n_layers):
        streams += [acts.resid_pre[layer], *([acts.resid_mid[layer]] if model.config.d_mlp else [])]
    return [*streams, acts.final]
