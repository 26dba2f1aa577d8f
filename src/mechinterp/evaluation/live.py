"""Which edges can matter at all on this pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from mechinterp.core import Circuit, Edge, Inputs, Metric, Pair
from mechinterp.interventions import Ablation
from mechinterp.patching import patch_edges


def live_edges(
    model: Any,
    pair: Pair,
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
    inputs: Inputs = "merged",
) -> tuple[Edge, ...]:
    """Edges whose exact effect is not identically zero, on a path of such edges from an input to the logits.

    An edge is dead if no example shows an effect beyond rounding (a hundred units in the last place of the largest
    number in play), noising the clean run and, under resampling, denoising the corrupted one. Two saturated copies
    both live: denoising shows what noising hides. An edge that matters only when others are half-way is missed.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        metric: What an effect is measured in.
        ablation: Where the replacement comes from.
        inputs: `merged` or `split`.

    Returns:
        Live edges in topological order.
    """
    seen: set[str] = set()
    for direction in ("noise", "denoise") if ablation == "resample" else ("noise",):
        result = patch_edges(model, pair, direction=direction, ablation=ablation, metric=metric, inputs=inputs)
        effect = np.abs(result["effect"].transpose("edge", "example").values).max(1)
        largest = max(effect.max(), np.abs(result["clean"]).max(), np.abs(result["corrupted"]).max())
        seen |= set(
            result["edge"].values[effect > 100 * np.finfo(result["effect"].dtype).eps * float(largest)].tolist()
        )
    return tuple(Circuit(seen, inputs).pruned())
