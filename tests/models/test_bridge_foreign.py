"""Our analyses on a `TransformerBridge` over Hugging Face models, built at random without a network."""

import pytest
import torch
from transformer_lens import patching
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mechinterp.attribution import head_scores
from mechinterp.core import Batch, Pair, SiteError, UnsupportedError
from mechinterp.interventions import gradients, record, run_edited, score_runs
from mechinterp.models import ModelConfig, Transformer, to_bridge
from mechinterp.patching import estimate_nodes, patch_edges, patch_nodes

VOCAB, SEQ = 50, 7


@pytest.fixture(scope="module")
def pair():
    draw = torch.Generator().manual_seed(0)
    clean, corrupted, right = (torch.randint(VOCAB, (3, SEQ), generator=draw) for _ in range(3))
    scored = torch.zeros(3, SEQ, dtype=torch.bool)
    scored[:, -1] = True
    roles = {"middle": torch.tensor([2, 3, 4])}
    wrong = (right + 1) % VOCAB
    return Pair(Batch(clean, right, scored, wrong, roles), Batch(corrupted, right, scored, wrong, roles))


def loud(model):
    """Weights ten times as large: at random initialisation heads hardly do anything."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "wte" not in name and "embed" not in name:
                weight.mul_(10)
    return model


@pytest.fixture(scope="module")
def gpt2():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCAB, n_positions=12, bos_token_id=0)
        model = loud(GPT2LMHeadModel(settings))
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config).eval()


@pytest.fixture(scope="module")
def llama():
    """Four heads that share two heads' keys and values."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = LlamaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32,
            vocab_size=VOCAB, max_position_embeddings=12, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip
        model = loud(LlamaForCausalLM(settings))
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config).eval()


def theirs(bridge, pair, name):
    clean = pair.clean
    rows = torch.arange(len(clean))

    def metric(logits):
        return logits[rows, -1, clean.targets[:, -1]] - logits[rows, -1, clean.wrong[:, -1]]

    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean.inputs)
        found = getattr(patching, name)(bridge, pair.corrupted.inputs, cache, metric, reduce="none", baseline=True)
    return found.effect()


def same(bridge, pair, site, name):
    ours = patch_nodes(bridge, pair, site=site, at="pos")
    dims = ["layer", "pos", "head", "example"] if "head" in ours.effect.dims else ["layer", "pos", "example"]
    expected = theirs(bridge, pair, name)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(torch.from_numpy(ours.effect.transpose(*dims).values), expected, rtol=0, atol=1e-5)
    clean, corrupted = score_runs(bridge, pair)
    torch.testing.assert_close(torch.from_numpy(ours.clean.values), clean)
    torch.testing.assert_close(torch.from_numpy(ours.corrupted.values), corrupted)


LAYERS = [
    ("resid_pre", "get_act_patch_resid_pre"),
    ("resid_mid", "get_act_patch_resid_mid"),
    ("attn", "get_act_patch_attn_out"),
    ("mlp", "get_act_patch_mlp_out"),
    ("z", "get_act_patch_attn_head_out_by_pos"),
    ("q", "get_act_patch_attn_head_q_by_pos"),
]
KEYS = [("k", "get_act_patch_attn_head_k_by_pos"), ("v", "get_act_patch_attn_head_v_by_pos")]


@pytest.mark.parametrize(("site", "name"), LAYERS + KEYS)
def test_gpt2_nodes(gpt2, pair, site, name):
    same(gpt2, pair, site, name)


@pytest.mark.parametrize(("site", "name"), LAYERS)
def test_llama_nodes(llama, pair, site, name):
    same(llama, pair, site, name)


@pytest.mark.parametrize("site", ["k", "v", "L1.H3.k"])
def test_llama_shares_keys_and_values_among_heads(llama, pair, site):
    with pytest.raises(UnsupportedError, match=r"2 heads.*4"):
        patch_nodes(llama, pair, site=site)


def test_by_role_is_by_the_position_of_each_example(gpt2, pair):
    by_role = patch_nodes(gpt2, pair, site="z", at="role").effect.sel(role="middle")
    by_pos = patch_nodes(gpt2, pair, site="z", at="pos").effect
    for example, position in enumerate([2, 3, 4]):
        expected = by_pos.isel(example=example).sel(pos=position).values
        torch.testing.assert_close(by_role.isel(example=example).values, expected, rtol=0, atol=1e-6)


def test_every_road_to_one_number(pair):
    """Our engine on our model, and the plain loop on the bridge that holds the same weights."""
    model = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=8, d_vocab=VOCAB, n_ctx=SEQ)).eval()
    bridge = to_bridge(model)
    for site in ("z", "q", "k", "v", "pattern", "attn", "mlp", "mlp_post", "resid_mid", "embed", "pos"):
        ours, plain = (patch_nodes(one, pair, site=site, direction="noise").effect for one in (model, bridge))
        assert ours.dims == plain.dims
        torch.testing.assert_close(plain.values, ours.values, rtol=0, atol=1e-5, msg=site)


def test_gradients_on_a_bridge(pair):
    """The same weights in our model and in the bridge: the same attribution."""
    model = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=8, d_vocab=VOCAB, n_ctx=SEQ)).eval()
    bridge = to_bridge(model)
    for site in ("z", "k", "pattern", "attn", "mlp_post", "resid_mid"):
        ours, plain = (estimate_nodes(one, pair, site=site).effect for one in (model, bridge))
        torch.testing.assert_close(plain.values, ours.values, rtol=0, atol=1e-5, msg=site)
    with pytest.raises(UnsupportedError, match="use_split_qkv_input"):
        gradients(bridge, pair.clean.inputs, ["blocks.0.hook_q_input"], lambda output: output.sum((1, 2)))


def test_records_are_named_as_they_were_asked_for(gpt2, pair):
    """A bridge's hook points answer to several names."""
    output, kept = record(gpt2, pair.clean.inputs, ["blocks.0.attn.hook_z", "blocks.0.hook_resid_pre"])
    _, cache = gpt2.run_with_cache(pair.clean.inputs)
    assert set(kept) == {"blocks.0.attn.hook_z", "blocks.0.hook_resid_pre"}
    for name, value in kept.items():
        assert torch.equal(value, cache[name])
    torch.testing.assert_close(output, gpt2(pair.clean.inputs))


def test_head_scores_on_a_bridge(gpt2, pair):
    found = head_scores(gpt2, pair.clean).sel(score="previous_token", layer=1, head=0)
    _, cache = gpt2.run_with_cache(pair.clean.inputs)
    expected = cache["pattern", 1][:, 0].diagonal(-1, 1, 2).mean(-1)
    torch.testing.assert_close(torch.from_numpy(found.values), expected, rtol=0, atol=1e-6)


def test_hooks_that_a_bridge_lacks_are_an_error(gpt2, llama, pair):
    inputs = pair.clean.inputs
    native = to_bridge(Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=VOCAB, n_ctx=SEQ)))
    with pytest.raises(SiteError, match=r"Did you mean 'blocks\.0\.attn\.hook_z'"):
        record(gpt2, inputs, ["blocks.0.attn.hook_zz"])
    with pytest.raises(UnsupportedError, match="use_attn_result"):
        patch_nodes(gpt2, pair, site="result")
    with pytest.raises(UnsupportedError, match=r"hook_pos_embed'.*nothing passes through"):
        run_edited(llama, inputs, {"hook_pos_embed": torch.zeros_like})
    with pytest.raises(UnsupportedError, match="Transformer"):
        patch_edges(native, pair)
    for bridge in (gpt2, llama, native):
        assert not any(point.fwd_hooks or point.bwd_hooks for point in bridge.hook_dict.values())


def test_nothing_is_left_behind(gpt2, pair):
    before = {name: weight.clone() for name, weight in gpt2.state_dict().items()}

    def fail(value):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run_edited(gpt2, pair.clean.inputs, {"blocks.0.attn.hook_z": fail})
    patch_nodes(gpt2, pair, site="v", at="all")
    assert not any(point.fwd_hooks for point in gpt2.hook_dict.values())
    assert all(torch.equal(weight, before[name]) for name, weight in gpt2.state_dict().items())
    assert not gpt2.training
