"""What every head of a model attends to on a batch."""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor

from mechinterp.attribution.patterns import SCORES, uniform_pattern
from mechinterp.core import Batch, HookedModel, Site, labelled
from mechinterp.interventions import record
from mechinterp.models import Transformer

_CHUNK = 64
"""Examples per forward pass: patterns of long sequences are large."""


def head_scores(model: HookedModel, batch: Batch) -> xr.DataArray:
    """Previous-token, induction and duplicate-token score of every head on every example.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points and `cfg`.
        batch: Which positions are scored plays no part: a mean is over all queries for which a score is defined.

    Returns:
        Dimensions score, layer, head, example. NaN where a score is undefined: for an example without repeated
        tokens, and for the last two scores of a model that reads vectors. Under linear attention, whose rows do not
        sum to 1, a score is not a share.

    See `head_score_chance` for what uniform attention gets.
    """
    layers = range(model.cfg.n_layers)
    parts = []
    for start in range(0, len(batch), _CHUNK):
        inputs = batch.inputs[start : start + _CHUNK]
        _, activations = record(model, inputs, [Site("pattern", layer) for layer in layers])
        patterns = torch.stack([activations[Site("pattern", layer).hook] for layer in layers], 1)
        parts.append(_all_scores(patterns, inputs))
    scores = torch.cat(parts, 1).permute(0, 2, 3, 1)  # score example layer head -> score layer head example
    return labelled(scores, ["score", "layer", "head", "example"], {"score": list(SCORES)}, kind="bounded")


def head_score_chance(batch: Batch, causal: bool = True) -> xr.DataArray:
    """What a head that spreads its attention evenly would score, in closed form.

    Args:
        batch: As for `head_scores`: the two scores that look for repeats depend on where these are.
        causal: Whether a position sees only itself and what came before.

    Returns:
        Dimensions score, example; NaN as in `head_scores`.
    """
    pattern = uniform_pattern(batch.seq_len, causal).expand(len(batch), -1, -1).to(batch.device)
    return labelled(_all_scores(pattern, batch.inputs), ["score", "example"], {"score": list(SCORES)})


@torch.no_grad()
def value_weighted_attention(model: Transformer, batch: Batch) -> xr.Dataset:
    """How much each position really receives from each other one: attention times the norm of what it carries.

    Args:
        model: The model.
        batch: Keep it small: results are quadratic in the sequence.

    Returns:
        All with dimensions layer, head, example, query, key:
        `norm`: `||a_qk (x_k W_V + b_V) W_O||`.
        `share`: `norm` divided by its sum over keys (NaN where that is 0), so that the pattern scores apply to it.
        `chance`: `share` under uniform attention: what value norms alone would give.

    Source: Kobayashi et al. 2020. Differs: x is what the head reads, after the layer norm where there is one.
    """
    layers = range(model.config.n_layers)
    hooks = [Site(kind, layer) for layer in layers for kind in ("pattern", "v")]
    _, activations = record(model, batch.inputs, hooks)
    pattern = torch.stack([activations[Site("pattern", layer).hook] for layer in layers])
    value = torch.stack([activations[Site("v", layer).hook] for layer in layers])
    carried = torch.einsum("lbkhd,lhdm->lbhkm", value, model.W_O).norm(dim=-1)[..., None, :]
    norm = pattern.abs() * carried
    uniform = uniform_pattern(batch.seq_len, model.config.causal).to(pattern) * carried
    parts = {
        "norm": norm,
        "share": norm / norm.sum(-1, keepdim=True),
        "chance": uniform / uniform.sum(-1, keepdim=True),
    }
    dims = ["layer", "head", "example", "query", "key"]
    return xr.Dataset({name: labelled(part.transpose(1, 2), dims) for name, part in parts.items()})


def _all_scores(pattern: Tensor, inputs: Tensor) -> Tensor:
    """`[score, batch, ...]`; what needs tokens is NaN for vectors."""
    tokens = inputs.ndim == 2
    blank = torch.full(pattern.shape[:-2], float("nan"), dtype=pattern.dtype, device=pattern.device)
    return torch.stack(
        [score(pattern, inputs) if tokens or name == "previous_token" else blank for name, score in SCORES.items()]
    )
