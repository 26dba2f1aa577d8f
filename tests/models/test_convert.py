"""Hugging Face's models in ours: equal log probabilities, and refusals that name every reason."""

import math

import pytest
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mechinterp.core import UnsupportedError
from mechinterp.models import from_hf, from_transformer_lens, to_bridge

V, C = 50, 24
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": V,
    "max_position_embeddings": C, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
NEOX = {**SIZES, "attention_dropout": 0.1, "hidden_dropout": 0.1}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": V, "n_positions": C, "bos_token_id": 0}
SHARED = {**SIZES, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 300.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
MODELS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "gpt2 exact gelu, untied, unscaled": (
        GPT2LMHeadModel,
        GPT2Config(
            **{**GPT2, "n_layer": 3}, activation_function="gelu", tie_word_embeddings=False, scale_attn_weights=False,
            n_inner=30, layer_norm_epsilon=1e-3,
        ),
    ),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**NEOX)),
    "neox, one after the other": (GPTNeoXForCausalLM, GPTNeoXConfig(**NEOX, use_parallel_residual=False)),
    "neox without attention biases, all rotated": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**NEOX, attention_bias=False, rotary_pct=1.0, hidden_act="gelu_new", tie_word_embeddings=True),
    ),
    "neox linear": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**NEOX, rope_parameters={**LINEAR, "partial_rotary_factor": 0.75}),
    ),
    "llama": (LlamaForCausalLM, LlamaConfig(**SHARED)),
    "llama biased, d_head 8": (
        LlamaForCausalLM,
        LlamaConfig(**{**SIZES, "num_key_value_heads": 1}, head_dim=8, attention_bias=True, mlp_bias=True),
    ),
    "llama3 scaling": (LlamaForCausalLM, LlamaConfig(**SHARED, rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama linear, gelu": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=LINEAR, hidden_act="gelu")),
    "mistral": (MistralForCausalLM, MistralConfig(**SHARED, sliding_window=C)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHARED)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHARED, head_dim=10, rms_norm_eps=1e-4)),
    "qwen3 biased": (Qwen3ForCausalLM, Qwen3Config(**SHARED, head_dim=6, attention_bias=True)),
}  # fmt: skip


def loud(kind, dtype=torch.float32):
    """A random model whose heads, MLPs, biases and norms all do something."""
    cls, config = MODELS[kind] if isinstance(kind, str) else kind
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 1:
                    weight.add_(0.3 * torch.randn(weight.shape))
                else:
                    weight.mul_(4 if any(part in name for part in ("wte", "embed", "lm_head")) else 10)
    return model.to(dtype).eval()


def difference(model, original, seed=3):
    tokens = torch.randint(V, (3, model.config.n_ctx), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours, theirs = (part.double().log_softmax(-1) for part in (model(tokens), original(tokens).logits))
    assert theirs.std() > 0.1  # not all alike
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("kind", MODELS)
def test_log_probabilities_are_equal_in_single_and_double_precision(kind):
    original = loud(kind)
    assert difference(from_hf(original), original) < 1e-4
    double = loud(kind, torch.float64)
    converted = from_hf(double)
    assert converted.dtype == torch.float64
    assert difference(converted, double) < (1e-9 if kind.startswith("gpt2") else 1e-5)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if not kind.startswith("gpt2")])
def test_in_double_precision_all_that_is_left_are_their_single_precision_parts(kind, monkeypatch):
    """Angles, norms and softmax of the original, made in double precision here: what is left is rounding."""
    original = loud(kind, torch.float64)
    original.set_attn_implementation("sdpa")
    rotary = next(part for name, part in original.named_modules() if name.endswith("rotary_emb"))
    theirs = original.config.rope_parameters
    converted = from_hf(original)
    from mechinterp.models.rotary import frequencies

    exact = frequencies(converted.config)
    torch.testing.assert_close(exact, rotary.inv_freq.double(), rtol=1e-5, atol=0)
    assert theirs["rope_type"] == converted.config.rotary_scaling

    def tables(x, position_ids):
        angles = position_ids[..., None].double() * exact
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    monkeypatch.setattr(rotary, "forward", tables)
    for part in original.modules():
        if type(part).__name__.endswith("RMSNorm"):

            def norm(x, part=part):
                return part.weight * x / (x.square().mean(-1, keepdim=True) + part.variance_epsilon).sqrt()

            monkeypatch.setattr(part, "forward", norm)
    assert difference(converted, original) < 1e-9


def test_a_conversion_leaves_the_original_alone_and_keeps_its_own_copy():
    original = loud("gpt2")
    original.train()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    converted = from_hf(original)
    assert original.training and original.transformer.drop.training and not converted.training
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert converted.config.tied_embeddings and len(dict(converted.named_parameters())) == 2 + 2 * 16 + 2
    with torch.no_grad():
        converted.embed.W_E.zero_()
    assert torch.equal(original.transformer.wte.weight, before["transformer.wte.weight"])
    assert converted.W_U.abs().max() == 0


def test_half_precision_is_compared_in_single_precision():
    original = loud("qwen3")
    for weight in original.parameters():  # as `from_pretrained(dtype=...)` has it: angles stay in single precision
        weight.data = weight.data.bfloat16()
    converted = from_hf(original)
    assert converted.dtype == torch.bfloat16
    assert difference(converted.float(), original.float()) < 1e-4


def test_a_shorter_context_takes_fewer_positions():
    converted = from_hf(loud("gpt2"), n_ctx=7)
    assert converted.config.n_ctx == 7 and converted.W_pos.shape == (7, 32)


def test_refusals_name_every_reason():
    window = loud((MistralForCausalLM, MistralConfig(**SHARED, sliding_window=8)))
    with pytest.raises(UnsupportedError, match="a sliding window of 8 below n_ctx=24"):
        from_hf(window)
    assert difference(from_hf(window, n_ctx=8), window) < 1e-4
    yarn = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 8}
    strange = LlamaForCausalLM(LlamaConfig(**SHARED, rope_parameters=yarn, hidden_act="relu2"))
    with pytest.raises(UnsupportedError, match=r"kind 'yarn' .*; activation 'relu2'"):
        from_hf(strange)
    layers = Qwen2Config(**SHARED, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(UnsupportedError, match="a sliding window of 8"):
        from_hf(Qwen2ForCausalLM(layers))
    settings = GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, add_cross_attention=True)
    with pytest.raises(UnsupportedError, match=r"scale_attn_by_inverse_layer_idx=True.*; add_cross_attention=True"):
        from_hf(GPT2LMHeadModel(settings))
    odd = GPTNeoXConfig(**NEOX, rotary_pct=0.4)
    with pytest.raises(UnsupportedError, match="rotary positions on 3 of a head's 8 features"):
        from_hf(GPTNeoXForCausalLM(odd))
    with pytest.raises(UnsupportedError, match="no Transformer for a GPT2Model: known are GPT2LMHeadModel, GPTNeoX"):
        from_hf(GPT2Model(GPT2Config(**GPT2)))
    with pytest.raises(UnsupportedError, match="n_ctx=25, and the model goes up to 24"):
        from_hf(loud("gpt2"), n_ctx=25)


def test_a_model_that_computes_something_else_is_refused():
    """A change that no setting tells, such as a subclass would make."""
    original = loud("llama")
    original.model.layers[1].self_attn.scaling *= 1.5
    with pytest.raises(UnsupportedError, match="differs from the original by up to"):
        from_hf(original)
    broken = loud("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    with pytest.raises(UnsupportedError, match="differs from the original by up to nan"):
        from_hf(broken)


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama", "qwen2", "qwen3"])
def test_a_bridge_over_a_known_model_comes_over(kind):
    original = loud(kind)
    bridge = build_bridge_from_module(loud(kind), type(original).__name__, hf_config=original.config).eval()
    assert difference(from_transformer_lens(bridge), original) < 1e-4


def test_a_native_bridge_comes_back(make_model):
    for settings in ({"d_mlp": 12}, {"positions": "rotary", "normalization": "none", "unembed_bias": True}):
        model = make_model(**settings).float()
        back = from_transformer_lens(to_bridge(model))
        tokens = torch.arange(9)[None]
        torch.testing.assert_close(back(tokens), model(tokens), rtol=1e-4, atol=1e-4)


def test_a_bridge_whose_weights_were_processed_comes_over_too():
    original = loud("gpt2")
    bridge = build_bridge_from_module(loud("gpt2"), "GPT2LMHeadModel", hf_config=original.config).eval()
    bridge.enable_compatibility_mode()
    assert difference(from_transformer_lens(bridge), original) < 1e-4
