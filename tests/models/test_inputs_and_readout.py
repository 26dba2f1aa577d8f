"""What some tasks need of the model: inputs and positions that enter as they are, and a readout with hidden layers."""

import pytest
import torch

from mechinterp.attribution import logit_attribution
from mechinterp.core import Batch, ConfigError, UnsupportedError
from mechinterp.interventions import activations
from mechinterp.known.ground_truth import rotate_stream
from mechinterp.models import ModelConfig, Transformer, to_bridge

VECTORS = {"n_layers": 2, "n_heads": 1, "d_model": 9, "n_ctx": 4, "inputs": "vectors", "d_in": 3, "d_vocab_out": 5}


def test_a_fixed_embedding_puts_inputs_beside_one_hot_positions():
    model = Transformer(ModelConfig(embedding="fixed", **VECTORS))
    inputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    stream, _ = model.embedded(inputs)
    torch.testing.assert_close(stream[..., :3], inputs)
    torch.testing.assert_close(stream[..., 3:7], torch.eye(4).expand(2, -1, -1))
    assert not bool(stream[..., 7:].any())
    torch.testing.assert_close(activations(model, inputs).resid_pre[0], stream)


def test_a_fixed_embedding_of_tokens_is_one_hot():
    model = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=9, n_ctx=4, d_vocab=5, embedding="fixed"))
    stream, _ = model.embedded(torch.tensor([[3, 0]]))
    assert stream[0].nonzero().tolist() == [[0, 3], [0, 5], [1, 0], [1, 6]]


def test_a_fixed_embedding_is_neither_drawn_nor_trained():
    model = Transformer(ModelConfig(embedding="fixed", **VECTORS), seed=3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adam = torch.optim.AdamW([weight for weight in model.parameters()], lr=0.1, weight_decay=0.5)
    model(torch.ones(2, 4, 3)).square().sum().backward()
    adam.step()
    model.initialise(4)
    kept = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
    assert {name for name in kept if ".W_" in name} == {"embed.W_E", "pos_embed.W_pos"}


def test_too_narrow_for_inputs_and_positions():
    with pytest.raises(ConfigError, match=r"embedding='fixed'.*d_model=6 must be 7 or more") as caught:
        ModelConfig(embedding="fixed", **{**VECTORS, "d_model": 6})
    assert "\n" not in str(caught.value)
    assert ModelConfig(embedding="fixed", positions="none", **{**VECTORS, "d_model": 3}).d_model == 3


def test_the_readout_by_hand(make_model):
    model = make_model(readout_layers=2, unembed_bias=True)
    tokens = torch.arange(9)[None]
    _, cache = model.run_with_cache(tokens)
    x = cache["ln_final.hook_normalized"]
    for weight, bias in zip(model.readout.W_in, model.readout.b_in, strict=True):
        x = (x @ weight + bias).clamp(min=0)
    torch.testing.assert_close(model(tokens), x @ model.W_U + model.b_U)
    assert model.readout.W_in.std().item() == pytest.approx(16**-0.5, rel=0.1)


def test_what_assumes_a_direct_unembedding_refuses_a_readout(make_model):
    model = make_model(readout_layers=1, normalization="none")
    tokens = torch.arange(9)[None]
    with pytest.raises(UnsupportedError, match="readout_layers > 0: nothing adds to a logit directly"):
        logit_attribution(model, Batch(tokens, tokens, tokens > 3), metric="logit")
    with pytest.raises(UnsupportedError, match="no TransformerBridge for readout_layers > 0"):
        to_bridge(model)
    with pytest.raises(UnsupportedError, match="no direction of the stream"):
        model.tokens_to_residual_directions(tokens)
    with pytest.raises(ConfigError, match="readout_layers > 0"):
        rotate_stream(model, torch.eye(16, dtype=torch.float64))
