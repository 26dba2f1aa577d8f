"""One hooked forward pass per patch: slow, obvious, and right for every model with TransformerLens's hook points.

It serves models that the engine does not know (a `TransformerBridge`), and the tests as the second road to a number.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mechinterp.core import Metric, Pair, Site, UnsupportedError, labelled, patching_result
from mechinterp.interventions import Ablation, Direction, Scorer, ablated, hook_name, record, run_edited, take
from mechinterp.patching.places import Places

HEAD_AXIS = {"pattern": 1}
WITHOUT_LAYER = ("input", "embed", "pos")


def plain_nodes(
    model: Any,
    pair: Pair,
    site: str | Site,
    where: Places,
    metric: str | Metric = "logit_diff",
    direction: Direction = "denoise",
    ablation: Ablation = "resample",
) -> xr.Dataset:
    """Exact node effects, one forward pass per patch.

    Args:
        model: Any model with `hook_dict`, `run_with_hooks` and `cfg.n_layers`, `cfg.n_heads`.
        pair: On the model's device.
        site: A kind or an address.
        where: Places to patch.
        metric: A name or a function.
        direction: `denoise` or `noise`.
        ablation: With `noise`, what replaces the clean value.

    Returns:
        As `patch_nodes`.

    Raises:
        SiteError: If the model lacks the hook point.
        UnsupportedError: If its activations have another number of heads than queries (grouped-query attention).
    """
    kind, layers, heads = _which(model, site)
    this, other = (pair.clean, pair.corrupted) if direction == "noise" else (pair.corrupted, pair.clean)
    _, positions, _ = pair.clean.at_scored()
    names = [_hook(model, kind, layer) for layer in layers]
    _, theirs = record(model, other.inputs, names)
    with torch.no_grad():
        outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (pair.clean, pair.corrupted)]
    scorer = Scorer.of(pair, metric, outputs[0])
    clean, corrupted = (scorer(output) for output in outputs)
    has_heads = Site(kind, None if kind in WITHOUT_LAYER else 0).has_heads
    single = kind == "mlp_post"
    rows = []
    for name in names:
        axis = HEAD_AXIS.get(kind, 2)
        size = theirs[name].shape[axis] if has_heads or single else 1
        if has_heads and heads.stop > size:
            raise UnsupportedError(f"'{name}' has {size} heads and the model {heads.stop}: grouped queries share them")
        units = heads if has_heads else range(size)
        batch_first = theirs[name] if kind != "pattern" else theirs[name].transpose(1, 2)
        value = ablated(batch_first, ablation)
        value = value if kind != "pattern" else value.transpose(1, 2)
        for unit in units:
            for mask in where.masks:
                edit = _edit(value, mask, unit if has_heads or single else None, axis)
                output = take(run_edited(model, this.inputs, {name: edit}), positions)
                rows.append(scorer(output))
    effect = torch.stack(rows).unflatten(0, (len(names), -1, len(where.masks)))
    effect = clean - effect if direction == "noise" else effect - corrupted
    effect = torch.where(where.absent, torch.nan, effect)
    unit_dim = "head" if has_heads else "feature"
    place = where.dims[0] if where.dims else "place"
    labels = list(heads) if has_heads else list(range(effect.shape[1]))
    result = labelled(
        effect, ["layer", unit_dim, place, "example"], {"layer": list(layers), unit_dim: labels, place: where.labels}
    )
    lost = {"layer": kind in WITHOUT_LAYER, unit_dim: not (has_heads or single), place: not where.dims}
    result = result.isel({name: 0 for name, gone in lost.items() if gone}, drop=True)
    return patching_result(result, clean, corrupted, metric=scorer.name, method="exact, one pass per patch")


def _which(model: Any, site: str | Site) -> tuple[str, range, range]:
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    if isinstance(site, str) and "." not in site and not site.startswith("L"):
        kind = Site(site).kind if site in WITHOUT_LAYER else Site(site, 0).kind
        return kind, range(1) if kind in WITHOUT_LAYER else layers, heads
    found = Site.parse(site)
    if found.layer is not None:
        layers = range(found.layer, found.layer + 1)
    return found.kind, layers, heads if found.head is None else range(found.head, found.head + 1)


def _hook(model: Any, kind: str, layer: int) -> str:
    return hook_name(model, Site(kind, None if kind in WITHOUT_LAYER else layer))


def _edit(value: Tensor, mask: Tensor, unit: int | None, axis: int):
    """Replace the masked positions of one head or neuron (or of the whole activation)."""

    def edit(old: Tensor) -> Tensor:
        # [batch, seq, ...] for all kinds but patterns, which are [batch, head, query, key].
        where = mask[:, None, :, None] if axis == 1 else mask.reshape(*mask.shape, *[1] * (old.ndim - 2))
        if unit is not None:
            chosen = torch.zeros(old.shape[axis], dtype=torch.bool, device=old.device)
            chosen[unit] = True
            shape = [1] * old.ndim
            shape[axis] = -1
            where = where & chosen.reshape(shape)
        return torch.where(where, value, old)

    return edit
