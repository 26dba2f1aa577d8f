"""Analyses on a GPU that is not there against the same on the CPU; prints what each looked at. Its own process.

The device that it makes known to torch stays known, which other tests should not see.
"""

import json
import sys
from functools import partial

import numpy as np
import torch
from fake_gpu import FakeGPU, register

register()
from mechinterp.core import Batch, Pair  # noqa: E402
from mechinterp.models import ModelConfig, Transformer  # noqa: E402
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes  # noqa: E402

MODELS = {
    "learned": {"d_mlp": 24, "act_fn": "gelu"},
    "rotary, grouped, parallel": {
        "d_mlp": 24, "positions": "rotary", "n_kv_heads": 1, "parallel_blocks": True, "normalization": "RMS",
        "gated_mlp": True, "qk_norm": True,
    },
    "shortformer, padded": {"positions": "shortformer", "pad_token": 10},
}  # fmt: skip
ANALYSES = {
    "forward": lambda model, pair: model(pair.clean.inputs.to(model.device)),
    "nodes by position": partial(patch_nodes, site="z", at="pos"),
    "nodes by role": partial(patch_nodes, site="k", at="role", ablation="mean", direction="noise"),
    "nodes in parts": partial(patch_nodes, site="resid_post", at="all", budget_mb=0.01),
    "edges": patch_edges,
    "edges in parts": partial(patch_edges, inputs="split", ablation="mean", budget_mb=0.01),
    "eap-ig": partial(estimate_edges, steps=3),
    "eap-ig-activations": partial(estimate_edges, method="eap-ig-activations", steps=2, inputs="split"),
    "eap in parts": partial(estimate_edges, method="eap", ablation="mean", budget_mb=0.01),
    "verified": partial(estimate_edges, method="clean-corrupted", verify=5),
    "attribution": partial(estimate_nodes, at="role"),
}


def main() -> None:
    """Run everything; the last line is a JSON object: case -> looks at values."""
    looks = {}
    for kind, settings in MODELS.items():
        config = ModelConfig(**{"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": 11, "n_ctx": 8, **settings})
        model = Transformer(config)
        for name, analyse in ANALYSES.items():
            expected = analyse(model, pair())
            mode = FakeGPU()
            there = mode.moved(model)
            with mode:
                actual = analyse(there, pair())
            values, ours = (_numbers(each) for each in (expected, actual))
            np.testing.assert_allclose(ours, values, rtol=0, atol=1e-5, err_msg=f"{kind}: {name}")
            looks[f"{kind}: {name}"] = mode.looks
    print(json.dumps(looks))


def _numbers(result) -> np.ndarray:
    if isinstance(result, torch.Tensor):
        return getattr(result, "value", result).detach().numpy()
    return np.concatenate([np.nan_to_num(part.values.astype(float)).ravel() for part in result.data_vars.values()])


def pair() -> Pair:
    """Tokens without the padding one; some scored positions and roles, on the CPU."""
    draw = torch.Generator().manual_seed(0)
    clean, corrupted, right, wrong = (torch.randint(10, (4, 8), generator=draw) for _ in range(4))
    scored = torch.rand(4, 8, generator=draw) < 0.3
    scored[:, -1] = True
    roles = {"here": torch.randint(8, (4,), generator=draw), "maybe": torch.randint(-1, 8, (4,), generator=draw)}
    return Pair(Batch(clean, right, scored, wrong, roles), Batch(corrupted, right, scored, wrong, roles))


if __name__ == "__main__":
    sys.exit(main())
