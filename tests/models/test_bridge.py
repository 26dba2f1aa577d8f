"""Our model as a `TransformerBridge`: equal outputs wherever the native bridge can express the architecture."""

import pytest
import torch

from mechinterp.core import UnsupportedError
from mechinterp.models import ModelConfig, Transformer
from mechinterp.models.bridge import to_bridge


def made(dtype=torch.float32, **settings) -> Transformer:
    """A model whose every weight, biases and norms too, is random."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": 11, "n_ctx": 10}
    model = Transformer(ModelConfig(**{**sizes, **settings})).to(dtype)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    return model


TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))
EXPRESSIBLE = [
    {},
    {"d_mlp": 24, "act_fn": "relu", "n_heads": 4},
    {"d_mlp": 24, "act_fn": "gelu", "positions": "rotary", "rotary_base": 100.5},
    {"d_mlp": 24, "act_fn": "gelu_new", "positions": "none", "causal": False},
    {"d_mlp": 24, "act_fn": "silu", "normalization": "none", "attn_bias": False, "d_head": 4},
    {"unembed_bias": True, "d_vocab_out": 7, "attn_scale": 4.0},
    {"attn_scale": 8**0.5, "positions": "rotary"},  # scores divided by exactly 1, which a bridge's settings refuse
    {"outputs": "values", "d_out": 3},
    {"embedding": "fixed", "d_model": 22},
    {"d_mlp": 24, "mlp_bias": False, "attn_out_bias": False, "norm_eps": 0.3},
    {"tied_embeddings": True, "n_kv_heads": 2},
]


@pytest.mark.parametrize("settings", EXPRESSIBLE, ids=str)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equal_outputs(settings, dtype, near):
    model = made(dtype, **settings)
    bridge = to_bridge(model)
    output = bridge(TOKENS)
    assert output.dtype == dtype
    torch.testing.assert_close(output, model(TOKENS), rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rms_norm_to_single_precision(dtype):
    model = made(dtype, normalization="RMS", d_mlp=24, act_fn="silu")
    torch.testing.assert_close(to_bridge(model)(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-5)


def test_equal_activations():
    model = made(d_mlp=24)
    _, ours = model.run_with_cache(TOKENS)
    _, theirs = to_bridge(model).run_with_cache(TOKENS)
    names = ["hook_embed", "hook_pos_embed", "ln_final.hook_scale"]
    for layer in range(2):
        kinds = ["q", "k", "v", "z", "pattern"]
        names += [f"blocks.{layer}.attn.hook_{kind}" for kind in kinds]
        kinds = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
        names += [f"blocks.{layer}.hook_{kind}" for kind in kinds]
        names += [f"blocks.{layer}.mlp.hook_pre", f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.ln1.hook_scale"]
    for name in names:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_bridge_owns_its_weights():
    model = made()
    bridge = to_bridge(model)
    before = bridge(TOKENS)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.unembed.W_U.zero_()
        model.embed.W_E.zero_()
    assert torch.equal(bridge(TOKENS), before)
    with torch.no_grad():
        bridge.original_model.tok_embed.weight.fill_(1.0)
    assert not model.embed.W_E.any()


def test_ready_for_patching_and_leaves_torchs_generator_alone():
    model = made()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    bridge = to_bridge(model)
    assert torch.equal(torch.rand(1), expected)
    assert not bridge.training and not bridge.original_model.training


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"inputs": "vectors", "d_in": 4}, "inputs='vectors'"),
        ({"attention": "linear"}, "attention='linear'"),
        ({"positions": "shortformer"}, "positions='shortformer'"),
        ({"readout_layers": 1}, "readout_layers > 0"),
        ({"n_kv_heads": 1}, "n_kv_heads='1'"),
        ({"parallel_blocks": True, "d_mlp": 4}, "parallel_blocks='True'"),
        ({"gated_mlp": True, "d_mlp": 4}, "gated_mlp='True'"),
        ({"rotary_dim": 2, "positions": "rotary"}, "rotary_dim='2'"),
        ({"attention": "uniform"}, "attention='uniform'"),
        ({"act_fn": "solu"}, "act_fn='solu'"),
        ({"qk_norm": True}, "qk_norm='True'"),
        ({"smeared_keys": True}, "smeared_keys='True'"),
        ({"pad_token": 3}, "pad_token='3'"),
    ],
)
def test_what_it_cannot_express_is_refused_by_name(settings, named):
    with pytest.raises(UnsupportedError, match=named):
        to_bridge(made(**settings))
