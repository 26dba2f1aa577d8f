"""What heads attend to: by the roles that positions play, wherever these lie, or by how far back they look."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
import xarray as xr
from torch import Tensor

from mechinterp.attribution.head_scores import keys_at
from mechinterp.core import Batch, HookedModel, Site, SiteError, labelled, suggest
from mechinterp.interventions import on_model, record
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.tasks import ALL, Task


@register_measure("role_attention")
def role_attention(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    query: str,
    key: str | Sequence[str],
    corruption: str = ALL,
    examples: int = EXAMPLES,
) -> xr.DataArray:
    """Attention of every head from the position of one role to the positions of others, in the clean run.

    Attention suggests what a head reads; whether the model needs it, `removal` and `edge_effects` decide.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points and `cfg`.
        task: Its pairs name the roles.
        seed: Of the pairs.
        query: The role that attends.
        key: Roles attended to, or patterns of them such as `right_label_*`: attention to their positions is added up,
            once for roles that share a position.
        corruption: One of the task's, or `all` of them mixed. It may decide which roles there are.
        examples: Pairs.

    Returns:
        Dimensions layer, head, example; in [0, 1] under softmax. NaN where an example lacks the query or all keys.

    Raises:
        SiteError: If the pairs have no such role.
    """
    batch = on_model(task.pair(examples, seed, corruption).clean, model)
    start = batch.role(query)
    mask = _positions(batch, [key] if isinstance(key, str) else key)
    sites = [Site("pattern", layer) for layer in range(model.cfg.n_layers)]
    _, patterns = record(model, batch.inputs, sites)
    rows = torch.arange(len(batch), device=batch.device)
    weights = torch.stack([patterns[site.hook][rows, :, start.clamp(min=0)] for site in sites])  # layer batch head key
    shares = torch.where(mask[:, None], weights, torch.zeros_like(weights)).sum(-1).movedim(1, -1)
    defined = (start >= 0) & mask.any(-1)
    shares = torch.where(defined, shares, torch.full_like(shares, float("nan")))
    return labelled(shares, ["layer", "head", "example"], kind="bounded")


@register_measure("offset_attention", examples_of="loss")
def offset_attention(
    model: HookedModel, task: Task, seed: int, *, offsets: Sequence[int], examples: int = 128
) -> xr.DataArray:
    """Share of every head's attention, in absolute value, that scored positions pay to positions so far back.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points and `cfg`.
        task: Draws the examples.
        seed: Of the examples.
        offsets: How far back, 0 for the position itself.
        examples: How many.

    Returns:
        Dimensions layer, head, example: the mean over scored positions that have such positions before them, in [0, 1];
        NaN where there are none. Null: what the untrained model pays, the first step of a timeline; uniform attention
        pays one part in as many as a position sees for each offset.

    Source: arXiv 2506.13688, attention progress measure. Differs: a mean over positions of shares, not a share of sums.
    """
    batch = on_model(task.batch(examples, seed), model)
    keys = keys_at(offsets, batch.seq_len).to(batch.device)
    sites = [Site("pattern", layer) for layer in range(model.cfg.n_layers)]
    _, patterns = record(model, batch.inputs, sites)
    weights = torch.stack([patterns[site.hook] for site in sites]).abs()
    shares = torch.where(keys, weights, 0.0).sum(-1) / weights.sum(-1)  # layer batch head query
    queries = (batch.scored & keys.any(-1))[:, None].expand(shares.shape)
    mean = torch.where(queries, shares, 0.0).sum(-1) / queries.sum(-1)
    return labelled(mean.movedim(1, -1), ["layer", "head", "example"], kind="bounded")


def _positions(batch: Batch, patterns: Sequence[str]) -> Tensor:
    """Which positions play one of the roles: bool `[batch, seq]`."""
    names = []
    for pattern in patterns:
        fits = [name for name in batch.roles if fnmatchcase(name, pattern)]
        if not fits:
            raise SiteError(f"no role '{pattern}' in this batch.{suggest(pattern, batch.roles)}")
        names += fits
    places = torch.stack([batch.roles[name] for name in names], 1)
    return (places[..., None] == torch.arange(batch.seq_len, device=batch.device)).any(1)
