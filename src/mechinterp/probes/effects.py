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
        `clean` [example]; `effect` and `effect_random` (mean over the random erasers) [layer, example], positive
        where the model did better before, NaN where nothing was erased.
    """

    def run(site: Site | None, eraser: Eraser | None) -> Tensor:
        parts = []
        for start in range(0, len(batch), chunk):
            some, at = batch[start : start + chunk], mask[start : start + chunk, :, None]

            def edit(value: Tensor, at: Tensor = at) -> Tensor:
                assert site is not None and eraser is not None
                x = view(value, site)
                return written(value, site, torch.where(at, eraser(x), x))

            output = run_edited(model, some.inputs, {} if site is None else {site.hook: edit})
            parts.append(score(output, some, output))
        return torch.cat(parts)

    clean = run(None, None)
    blank = torch.full((len(sites), len(batch)), float("nan"), dtype=clean.dtype)
    effect, random = blank.clone(), blank.clone()
    for number, (true, *others) in enumerate(erasers):
        effect[number] = (clean - run(sites[number], true)).cpu()
        random[number] = (clean - torch.stack([run(sites[number], other) for other in others]).mean(0)).cpu()
    return {"clean": clean, "effect": effect, "effect_random": random}
