"""What erasing a variable costs the model: the causal companion of a probe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from mechinterp.core import Batch, Metric, Site
from mechinterp.interventions import run_edited
from mechinterp.models import Transformer
from mechinterp.probes.erase import Eraser
from mechinterp.probes.rows import view, written


@torch.no_grad()
def erasure_effects(
    model: Transformer,
    batch: Batch,
    score: Metric,
    sites: Sequence[Site],
    erasers: Sequence[Sequence[Eraser]],
    mask: Bool[Tensor, "batch seq"],
    chunk: int,
) -> dict[str, Tensor]:
    """How far the metric falls when each site in turn is erased at the positions of `mask`.

    Args:
        model: The model.
        batch: What it is run on.
        score: The metric.
        sites: One per layer.
        erasers: For each site the true eraser, then random ones; empty to run the clean model alone.
        mask: Where to erase.
        chunk: Examples per forward pass.

    Returns:
        `clean` [example]; `effect` and `effect_random` (each example under one of the random erasers) [layer,
        example], positive where the model did better before, NaN where nothing was erased.
    """
    chunks = range(0, len(batch), chunk)
    reference = torch.cat([run_edited(model, batch.inputs[start : start + chunk], {}) for start in chunks])
    clean = score(reference, batch, reference)

    def erased(site: Site, eraser: Eraser, rows: slice = slice(None)) -> Tensor:
        parts, held, where, known = [], batch[rows], mask[rows], reference[rows]
        for start in range(0, len(held), chunk):
            here = slice(start, start + chunk)

            def edit(value: Tensor, at: Tensor = where[here, :, None]) -> Tensor:
                x = view(value, site)
                return written(value, site, torch.where(at, eraser(x), x))

            output = run_edited(model, held.inputs[here], {site.hook: edit})
            parts.append(score(output, held[here], known[here]))
        return torch.cat(parts)

    blank = torch.full((len(sites), len(batch)), float("nan"), dtype=clean.dtype, device=clean.device)
    effect, random = blank.clone(), blank.clone()
    for number, (true, *others) in enumerate(erasers):
        effect[number] = clean - erased(sites[number], true)
        # The examples are dealt out to the random erasers: their mean is over all of these at the price of one run.
        for turn, other in enumerate(others[: len(batch)]):
            rows = slice(turn, None, len(others))
            random[number, rows] = clean[rows] - erased(sites[number], other, rows)
    return {"clean": clean, "effect": effect, "effect_random": random}
