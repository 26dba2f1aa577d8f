"""All heads at all positions: ours against TransformerLens's `patching`, one forward pass per patch."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens import patching as peer
from transformer_lens.model_bridge import TransformerBridge

from mechinterp.bench.inputs import describe, random_model, random_pair
from mechinterp.bench.timing import Figures, alternate, figures
from mechinterp.core import ConfigError, Pair
from mechinterp.models import Transformer, to_bridge
from mechinterp.patching import patch_nodes

_MEANING = "time of transformer_lens.patching.get_act_patch_attn_head_out_by_pos over ours; target >= 15"
SMALL, LARGE = {"n_layers": 2, "n_heads": 4, "seq": 40}, {"n_layers": 4, "n_heads": 4, "seq": 64, "d_mlp": 256}
# Model, scored positions, target (None: only reported), blocks.
# The peer takes about 16 seconds for the large model: two blocks of it, and with all positions scored the small one.
CASES = ((SMALL, "last", 15.0, 7), (LARGE, "last", 10.0, 2), (SMALL, "all", None, 3))


def patching(quick: bool = False) -> Figures:
    """Time of TransformerLens's loop over ours; on the native bridge that holds the same weights.

    Its time leaves out the clean run's cache, which it is given; ours has both runs in it.

    Args:
        quick: A small case once, to see that it runs.

    Returns:
        `ratio`, `low`, `high` of 2 layers of 4 heads, batch 16, length 40, the last position scored; `sizes` has all
        cases. `error` is the largest difference of any effect, in nats of logit difference.
    """
    cases = (({"n_layers": 2, "n_heads": 2, "seq": 10}, "last", 15.0, 2),) if quick else CASES
    rows = [_one(*case) for case in cases]
    return figures("patching", _MEANING, 15.0, rows, rows[0])


def _one(sizes: dict[str, int], scored: str, target: float | None, blocks: int) -> Figures:
    model, pair = random_model(**sizes), random_pair(sizes["seq"], scored)
    bridge = to_bridge(model)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(pair.clean.inputs, names_filter=lambda name: name.endswith("hook_z"))
    sweep, sweeps = _peer(bridge, cache, pair), []

    def theirs() -> None:
        sweeps[:] = [sweep()]

    effects = _ours(model, pair).transpose("layer", "pos", "head", "example").values
    times = alternate(theirs, lambda: _ours(model, pair), blocks, (1, 5 if sizes is SMALL else 2), warm=False)
    expected = sweeps[0].effect().numpy()
    return {
        **describe(model, pair),
        **times.ratio(),
        **times.seconds("peer_seconds", "our_seconds"),
        "target": target,
        "error": float(np.abs(effects - expected).max()),
        "largest_effect": float(np.abs(expected).max()),
    }


def _ours(model: Transformer, pair: Pair) -> xr.DataArray:
    return patch_nodes(model, pair, site="z", at="pos", direction="denoise")["effect"]


def _peer(bridge: TransformerBridge, cache: ActivationCache, pair: Pair):
    clean = pair.clean
    right, wrong = clean.targets, clean.wrong
    if wrong is None:
        raise ConfigError("the pair of this benchmark has wrong answers")
    last = not bool(clean.scored[:, :-1].any())

    def metric(logits: Tensor) -> Tensor:
        if last:
            at = torch.arange(len(clean))
            return logits[at, -1, right[:, -1]] - logits[at, -1, wrong[:, -1]]
        both = torch.stack([right, wrong], -1)
        return logits.gather(-1, both).diff(dim=-1).neg().mean((1, 2))

    def sweep() -> peer.PatchingResult:
        # Without its progress bar.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            return peer.get_act_patch_attn_head_out_by_pos(
                bridge, pair.corrupted.inputs, cache, metric, reduce="none", baseline=True
            )

    return sweep
