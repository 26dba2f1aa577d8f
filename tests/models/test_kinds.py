"""Each kind of model against a known answer: what a setting says, worked out by other means."""

import math

import pytest
import torch
import xarray as xr
from torch.nn import functional

from mechinterp.attribution import value_weighted_attention
from mechinterp.core import Batch, Circuit, ConfigError, Site
from mechinterp.evaluation import random_circuits
from mechinterp.evaluation.redundancy import without
from mechinterp.interventions import record
from mechinterp.models import ModelConfig, Transformer
from mechinterp.models.rotary import frequencies, turn
from mechinterp.plots import circuit_graph

TOKENS = torch.randint(19, (3, 9), generator=torch.Generator().manual_seed(0))
SMALL = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_vocab": 20, "n_ctx": 9}


def values(model, *sites):
    _, kept = record(model, TOKENS, list(sites))
    return [kept[name] for name in kept]


def test_groups_of_heads_are_heads_with_equal_keys_and_values(make_model):
    shared = make_model(n_heads=4, n_kv_heads=2, d_mlp=5, positions="rotary", smeared_keys=True, qk_norm=True)
    alone = make_model(n_heads=4, d_mlp=5, positions="rotary", smeared_keys=True, qk_norm=True)
    state = shared.state_dict()
    for name in state:
        if name.endswith(("W_K", "W_V", "b_K", "b_V", "smear")):
            state[name] = state[name].repeat_interleave(2, 0)
    alone.load_state_dict(state)
    torch.testing.assert_close(shared(TOKENS), alone(TOKENS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shared.W_K, alone.W_K, rtol=0, atol=0)
    torch.testing.assert_close(shared.b_V, alone.b_V, rtol=0, atol=0)
    (k,) = values(shared, "blocks.0.attn.hook_k")
    assert k.shape == (3, 9, 2, 4)
    batch = Batch(TOKENS, TOKENS, TOKENS >= 0)
    ours, theirs = (value_weighted_attention(m, batch)["share"].values for m in (shared, alone))
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-9, atol=1e-9)


def test_smeared_keys_by_hand(make_model):
    model = make_model(smeared_keys=True, n_layers=1)
    q, k, scores = values(model, *(f"blocks.0.attn.hook_{kind}" for kind in ("q", "k", "attn_scores")))
    share = model.blocks[0].attn.smear.sigmoid()[:, None]
    mixed = k.clone()
    for at in range(1, 9):
        mixed[:, at] = share * k[:, at] + (1 - share) * k[:, at - 1]
    expected = torch.einsum("bqhd,bkhd->bhqk", q, mixed) / math.sqrt(8)
    seen = torch.ones(9, 9).tril().bool()
    torch.testing.assert_close(scores[..., seen], expected[..., seen], rtol=1e-12, atol=1e-12)
    assert ((share > 0.05) & (share < 0.95)).all() and not torch.allclose(share[0], share[1])


def test_uniform_and_relu_attention(make_model):
    (uniform,) = values(make_model(attention="uniform", n_layers=1), "blocks.0.attn.hook_pattern")
    expected = torch.ones(9, 9).double().tril() / torch.arange(1, 10)[:, None]
    torch.testing.assert_close(uniform, expected.expand_as(uniform), rtol=1e-12, atol=0)
    model = make_model(attention="relu", n_layers=1)
    scores, pattern = values(model, "blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern")
    torch.testing.assert_close(pattern, scores.clamp(min=0).tril(), rtol=0, atol=0)
    assert (pattern > 0).any() and not torch.allclose(pattern.sum(-1), torch.ones(3, 2, 9).double())


def test_uniform_attention_trains_all_weights_there_are(make_model):
    """Queries and keys have a gradient, which is zero: an optimiser's state is that of any other model."""
    model = make_model(attention="uniform", n_layers=1)
    model(TOKENS).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert model.blocks[0].attn.W_Q.grad.abs().max() == 0 and model.blocks[0].attn.W_V.grad.abs().max() > 0


def test_solu_and_gates_by_hand(make_model):
    for act, norm in (("solu", None), ("solu_ln", True)):
        model = make_model(d_mlp=5, act_fn=act, n_layers=1)
        pre, post = values(model, "blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post")
        expected = pre * pre.softmax(-1)
        if norm:
            ln = model.blocks[0].mlp.ln
            expected = functional.layer_norm(expected, (5,), ln.w, ln.b, 1e-5)
        torch.testing.assert_close(post, expected, rtol=1e-12, atol=1e-12)
    model = make_model(d_mlp=5, act_fn="silu", gated_mlp=True, n_layers=1)
    names = ("hook_pre", "hook_pre_linear", "hook_post")
    pre, linear, post = values(model, *(f"blocks.0.mlp.{name}" for name in names))
    torch.testing.assert_close(post, functional.silu(pre) * linear, rtol=1e-12, atol=1e-12)
    (read,) = values(model, "blocks.0.ln2.hook_normalized")
    mlp = model.blocks[0].mlp
    torch.testing.assert_close(pre, read @ mlp.W_gate + mlp.b_gate, rtol=1e-12, atol=1e-12)


def test_in_parallel_the_mlp_reads_the_stream_before_the_heads(make_model):
    model = make_model(d_mlp=5, parallel_blocks=True, n_layers=1)
    pre, attn, read, mlp, post = values(
        model, *(f"blocks.0.hook_{name}" for name in ("resid_pre", "attn_out", "mlp_in", "mlp_out", "resid_post"))
    )
    assert torch.equal(read, pre)
    torch.testing.assert_close(post, pre + attn + mlp, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing_elsewhere(make_model, causal):
    """A string alone, and the same string filled up: equal outputs at its positions."""
    model = make_model(pad_token=19, causal=causal, d_mlp=5)
    filled = torch.cat([TOKENS[:, :5], torch.full((3, 4), 19)], 1)
    torch.testing.assert_close(model(filled)[:, :5], model(TOKENS[:, :5]), rtol=1e-12, atol=1e-12)
    (pattern,) = values(model, "blocks.1.attn.hook_pattern")
    assert pattern.min() >= 0
    front = torch.cat([torch.full((3, 2), 19), TOKENS[:, :7]], 1)
    assert model(front).isfinite().all()
    _, kept = record(model, front, ["blocks.0.attn.hook_pattern"])
    weights = kept["blocks.0.attn.hook_pattern"]
    assert weights[:, :, 2:, :2].max() == 0  # no real position sees padding
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 9).double())


def test_llama3_frequencies_between_the_two_limits():
    """Each wave is four times as long as the one before; the second lies between the limits."""
    base = 2.0**10
    config = ModelConfig(
        **{**SMALL, "d_head": 10}, positions="rotary", rotary_base=base, rotary_scaling="llama3", rotary_factor=4.0,
        rotary_low=1.0, rotary_high=4.0, rotary_ctx=64,
    )  # fmt: skip
    plain = frequencies(config.change(rotary_scaling="default"))
    torch.testing.assert_close(plain, 4.0 ** -torch.arange(5, dtype=torch.float64))
    fits = 64 * plain / (2 * math.pi)  # 10.2, 2.5, 0.64, ...
    keep = (fits[1] - 1) / 3
    expected = torch.stack([plain[0], plain[1] * (keep + (1 - keep) / 4), *(plain[2:] / 4)])
    torch.testing.assert_close(frequencies(config), expected)
    torch.testing.assert_close(frequencies(config.change(rotary_scaling="linear")), plain / 4)


def test_partial_rotation_leaves_the_other_features():
    x = torch.arange(6.0).expand(2, 1, 6)
    cos, sin = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert turn(x, cos, sin)[0, 0].tolist() == [-1, 0, 2, 3, 4, 5]


def test_rotary_tables_are_as_exact_as_the_weights():
    """A double model has double angles, though models are made in single precision."""
    config = ModelConfig(**{**SMALL, "n_ctx": 4000}, positions="rotary")
    attn = Transformer(config).double().blocks[0].attn
    angle = torch.tensor(3999.0 * 10_000.0 ** (-2 / 8), dtype=torch.float64)
    assert abs(float(attn.cos[3999, 2] - angle.cos())) < 1e-12 and attn.cos.dtype == torch.float64
    assert attn.float().cos.dtype == torch.float32


def test_a_tied_unembedding_follows_the_embedding():
    model = Transformer(ModelConfig(**SMALL, tied_embeddings=True))
    assert "unembed.W_U" not in model.state_dict() and torch.equal(model.W_U, model.W_E.T)
    changed = {name: value + 1 for name, value in model.state_dict().items() if name == "embed.W_E"}
    output = torch.func.functional_call(model, {**model.state_dict(), **changed}, (TOKENS,))
    model.load_state_dict({**model.state_dict(), **changed})
    torch.testing.assert_close(output, model(TOKENS))
    model(TOKENS).sum().backward()
    assert model.embed.W_E.grad.abs().max() > 0
    assert ModelConfig(**SMALL).n_weights - model.config.n_weights == 16 * 20


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads=4 is no multiple of n_kv_heads=3"),
        ({"positions": "rotary", "rotary_dim": 10}, "rotary_dim of at most d_head=8, got 10"),
        ({"positions": "rotary", "rotary_dim": 3}, "even rotary_dim"),
        ({"rotary_scaling": "llama3", "rotary_low": 4.0}, "rotary_low=4.0 must be below rotary_high=4.0"),
        ({"pad_token": 20}, "pad_token=20 is none of the 20 tokens"),
        ({"tied_embeddings": True, "d_vocab_out": 4}, "as many features out as in"),
        ({"act_fn": "solu_ln", "readout_layers": 1}, "belongs to MLPs"),
        ({"rotary_scaling": "yarn"}, "'default', 'linear' or 'llama3'"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(settings, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig(**{**SMALL, **settings})


def test_settings_of_an_older_run_open_as_the_same_model():
    """All that a `run.json` of the first version holds; what it does not know has its default."""
    old = {
        **SMALL, "d_head": 8, "d_mlp": 4, "inputs": "tokens", "outputs": "logits", "d_vocab_out": None, "d_in": None,
        "d_out": None, "positions": "learned", "embedding": "learned", "rotary_base": 10000.0, "normalization": "LN",
        "attention": "softmax", "causal": True, "attn_bias": True, "unembed_bias": False, "readout_layers": 0,
        "act_fn": "relu", "attn_scale": 1.0, "init_scale": 1.0,
    }  # fmt: skip
    names = set(Transformer(ModelConfig(**old)).state_dict())
    assert names == {
        "embed.W_E", "pos_embed.W_pos", "ln_final.w", "ln_final.b", "unembed.W_U",
        *(f"blocks.0.attn.{kind}_{name}" for kind in "Wb" for name in "QKVO"),
        *(f"blocks.0.{norm}.{part}" for norm in ("ln1", "ln2") for part in "wb"),
        *(f"blocks.0.mlp.{kind}_{name}" for kind in "Wb" for name in ("in", "out")),
    }  # fmt: skip


def test_random_circuits_and_the_drawing_know_shared_keys(make_model):
    graph = make_model(n_heads=4, n_kv_heads=2, d_mlp=5, parallel_blocks=True, n_layers=2).config.graph()
    drawn = random_circuits(graph, 9, n=20)
    assert all(len(circuit.pruned()) == len(circuit) for circuit in drawn)
    assert any(edge.reader.last is not None for circuit in drawn for edge in circuit)
    effects = xr.DataArray([1.0] * len(graph.edges), dims="edge", coords={"edge": [str(edge) for edge in graph.edges]})
    figure = circuit_graph(effects, Circuit(["input->L0.H2-3.k"]), most_edges=len(graph.edges))
    wire = next(trace for trace in figure.data if trace.name == "input → L0.H2-3.k")
    gaps = [at for at, x in enumerate(wire.x) if x is None]
    assert len(gaps) == 1 and wire.x[gaps[0] - 1] != wire.x[-1]  # to both heads


def test_a_head_that_goes_leaves_the_keys_that_another_reads():
    edges = ["input->L0.H0.q", "input->L0.H0-1.k", "L0.H0->logits", "L0.H1->logits", "input->logits"]
    circuit, (first, second) = Circuit(edges), (Site.parse("L0.H0"), Site.parse("L0.H1"))
    assert circuit - without(circuit, [first]) == Circuit(["input->L0.H0.q", "L0.H0->logits"])
    assert without(circuit, [first, second]) == Circuit(["input->logits"])
