"""Which edges can matter at all on this pair."""

from __future__ import annotations

import numpy as np
from torch import nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, takes
from mechinterp.patching import patch_edges


@takes("metric", "ablation", "inputs")
def live_edges(model: HookedModel | nn.Module, pair: Pair, *, options: Options) -> tuple[Edge, ...]:
    """Edges whose exact effect is not identically zero, on a path of such edges from an input to the logits.

    An edge is dead if no example shows an effect beyond rounding (a hundred units in the last place of the largest
    number in play), noising the clean run and, under resampling, denoising the corrupted one. Two saturated copies
    both live: denoising shows what noising hides. An edge that matters only when others are half-way is missed.

    Args:
        model: The model.
        pair: Clean and corrupted examples.
        options: See `Options`.

    Returns:
        Live edges in topological order.
    """
    chosen = options.for_model(model)
    live: set[str] = set()
    for direction in ("noise", "denoise") if chosen.ablation == "resample" else ("noise",):
        result = patch_edges(model, pair, options=chosen.change(direction=direction))
        effect = np.abs(result["effect"].transpose("edge", "example").values).max(1)
        largest = max(effect.max(), np.abs(result["clean"]).max(), np.abs(result["corrupted"]).max())
        beyond = effect > 100 * np.finfo(result["effect"].dtype).eps * float(largest)
        live |= set(result["edge"].values[beyond].tolist())
    return tuple(Circuit(live, chosen.inputs).pruned())
