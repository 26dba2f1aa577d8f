"""Attention weighted by what is carried: what each position really receives from each other one."""

from __future__ import annotations

import torch
import xarray as xr

from mechinterp.attribution.head_scores import uniform_pattern
from mechinterp.core import Batch, Site, labelled
from mechinterp.interventions import on_model, record
from mechinterp.models import Transformer


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
    _, activations = record(model, on_model(batch.inputs, model), hooks)
    pattern = torch.stack([activations[Site("pattern", layer).hook] for layer in layers])
    values = (activations[Site("v", layer).hook] for layer in layers)
    value = torch.stack([block.attn.spread(each, 2) for block, each in zip(model.blocks, values, strict=True)])
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
