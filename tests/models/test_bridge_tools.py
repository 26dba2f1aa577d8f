"""TransformerLens's own tools on our model: cache, patching, factored matrices, head detector."""

import pytest
import torch
from transformer_lens import patching
from transformer_lens.head_detector import detect_head

from mechinterp.attribution import head_scores
from mechinterp.core import Batch, ShapeError, UnsupportedError
from mechinterp.models import ModelConfig, Transformer
from mechinterp.patching import patch_nodes


def made(seed=0, **settings) -> Transformer:
    sizes = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_vocab": 11, "n_ctx": 10, "init_scale": 2.0}
    model = Transformer(ModelConfig(**{**sizes, **settings}), seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".b" in name:
                weight.add_(0.5 * torch.randn(weight.shape, generator=draw))
    return model.eval()


def tokens(seed=0, batch=4, seq=9, vocab=11):
    return torch.randint(vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pair():
    from mechinterp.core import Pair

    scored = torch.zeros(4, 9, dtype=torch.bool)
    scored[:, -1] = True
    scored[1, 5] = True
    right, wrong = tokens(2), (tokens(2) + 1) % 11
    return Pair(Batch(tokens(0), right, scored, wrong), Batch(tokens(1), right, scored, wrong))


def scored_logit_diff(pair):
    """The metric in plain PyTorch, as a user of TransformerLens writes it."""
    clean = pair.clean

    def metric(logits):
        right = logits.gather(-1, clean.targets[..., None])[..., 0]
        wrong = logits.gather(-1, clean.wrong[..., None])[..., 0]
        return ((right - wrong) * clean.scored).sum(1) / clean.scored.sum(1)

    return metric


ARCHITECTURES = [{}, {"d_mlp": 16, "positions": "rotary"}, {"normalization": "RMS", "d_mlp": 16, "act_fn": "gelu"}]


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
@pytest.mark.parametrize(
    ("theirs", "site"),
    [
        ("get_act_patch_attn_head_out_by_pos", "z"),
        ("get_act_patch_attn_head_q_by_pos", "q"),
        ("get_act_patch_attn_head_k_by_pos", "k"),
        ("get_act_patch_attn_head_v_by_pos", "v"),
        ("get_act_patch_resid_pre", "resid_pre"),
        ("get_act_patch_resid_mid", "resid_mid"),
        ("get_act_patch_attn_out", "attn"),
        ("get_act_patch_mlp_out", "mlp"),
    ],
)
def test_patching_gives_our_numbers(settings, theirs, site, pair):
    model = made(**settings)
    if site in ("mlp", "resid_mid") and not model.config.d_mlp:
        pytest.skip("attention only")
    _, cache = model.run_with_cache(pair.clean.inputs)
    with torch.no_grad():
        found = getattr(patching, theirs)(
            model, pair.corrupted.inputs, cache, scored_logit_diff(pair), reduce="none", baseline=True
        )
    ours = patch_nodes(model, pair, site=site, at="pos", direction="denoise")
    dims = ["layer", "pos", "head", "example"] if "head" in ours.effect.dims else ["layer", "pos", "example"]
    expected = torch.from_numpy(ours.effect.transpose(*dims).values)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found.effect(), expected, rtol=0, atol=1e-5)


def test_patching_patterns_and_every_kind(pair):
    model = made()
    _, cache = model.run_with_cache(pair.clean.inputs)
    metric = scored_logit_diff(pair)
    with torch.no_grad():
        pattern = patching.get_act_patch_attn_head_pattern_all_pos(
            model, pair.corrupted.inputs, cache, metric, reduce="none", baseline=True
        )
        every = patching.get_act_patch_block_every(made(d_mlp=8), pair.corrupted.inputs, cache_of(pair), mean_of(pair))
    ours = patch_nodes(model, pair, site="pattern", at="all").effect.transpose("layer", "head", "example")
    torch.testing.assert_close(pattern.effect(), torch.from_numpy(ours.values), rtol=0, atol=1e-5)
    assert every.shape == (3, 2, 9)  # resid_pre, attn_out, mlp_out; layers; positions
    _, corrupted = baselines(made(d_mlp=8), pair)
    expected = patch_nodes(made(d_mlp=8), pair, site="mlp").effect.mean("example").values + corrupted
    torch.testing.assert_close(every[2], torch.from_numpy(expected).float(), rtol=0, atol=1e-5)


def cache_of(pair):
    return made(d_mlp=8).run_with_cache(pair.clean.inputs)[1]


def mean_of(pair):
    return lambda logits: scored_logit_diff(pair)(logits).mean()


def baselines(model, pair):
    with torch.no_grad():
        return [float(mean_of(pair)(model(batch.inputs))) for batch in (pair.clean, pair.corrupted)]


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
def test_cache_takes_the_residual_stream_apart(settings):
    model = made(**settings)
    logits, cache = model.run_with_cache(tokens())
    final = cache["resid_post", -1]
    for parts in (
        cache.decompose_resid(),
        cache.get_full_resid_decomposition(expand_neurons=False),
        cache.get_full_resid_decomposition(),
    ):
        torch.testing.assert_close(parts.sum(0), final, rtol=1e-5, atol=1e-5)
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels[4] == "L1H1"
    torch.testing.assert_close(heads[4], cache["z", 1][:, :, 1] @ model.W_O[1, 1])
    lens = cache.accumulated_resid(apply_ln=True)
    torch.testing.assert_close(lens[-1] @ model.W_U, logits, rtol=1e-4, atol=1e-4)


def test_cache_attributes_logits():
    """Fresh norms have weight 1 and bias 0, so the parts' attributions sum to the logits."""
    model = Transformer(ModelConfig(n_layers=2, n_heads=3, d_model=12, d_vocab=11, n_ctx=10)).eval()
    logits, cache = model.run_with_cache(tokens())
    answers, wrong = tokens(3)[:, -1], tokens(4)[:, -1]
    parts = cache.decompose_resid(pos_slice=-1)
    found = cache.logit_attrs(parts, tokens=answers, incorrect_tokens=wrong, pos_slice=-1).sum(0)
    rows = torch.arange(4)
    expected = logits[rows, -1, answers] - logits[rows, -1, wrong]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_factored_matrices():
    model = made()
    torch.testing.assert_close(model.OV.AB[1, 2], model.W_V[1, 2] @ model.W_O[1, 2])
    torch.testing.assert_close(model.QK.AB[0, 1], model.W_Q[0, 1] @ model.W_K[0, 1].T)
    circuit = model.W_E @ model.OV[0, 0] @ model.W_U
    expected = torch.linalg.eigvals(model.W_E @ model.W_V[0, 0] @ model.W_O[0, 0] @ model.W_U).sum()
    torch.testing.assert_close(circuit.eigenvalues.sum(), expected, rtol=1e-4, atol=1e-4)


def test_head_detector_gives_our_previous_token_score():
    model, inputs = made(), tokens(batch=1)
    found = detect_head(model, inputs, "previous_token_head", error_measure="mul")
    ours = head_scores(model, Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool)))
    # Theirs divides by all attention, ours leaves out the first position, which has no previous token.
    expected = ours.sel(score="previous_token").isel(example=0).values * 8 / 9
    torch.testing.assert_close(found, torch.from_numpy(expected).to(found), rtol=0, atol=1e-5)


def test_accumulated_bias():
    model = made(d_mlp=8)
    blocks = model.blocks
    expected = blocks[0].attn.b_O + blocks[0].mlp.b_out + blocks[1].attn.b_O
    torch.testing.assert_close(model.accumulated_bias(1, mlp_input=True), expected)
    expected = blocks[0].attn.b_O + blocks[1].attn.b_O
    torch.testing.assert_close(model.accumulated_bias(2, include_mlp_biases=False), expected)
    assert not made(attn_bias=False).accumulated_bias(2).any()
    with pytest.raises(ShapeError, match="0 to 1"):
        model.accumulated_bias(2, mlp_input=True)


def test_text_is_refused():
    model = made()
    assert model.to_tokens(torch.arange(3)).shape == (1, 3)
    for ask in (model.to_tokens, model.to_single_token, model.tokens_to_residual_directions):
        with pytest.raises(UnsupportedError, match="no tokenizer"):
            ask("the cat")
    with pytest.raises(UnsupportedError, match="hook_q_input"):
        model.set_use_attn_in(True)


@pytest.mark.parametrize("positions", ["learned", "shortformer"])
def test_hooks_that_edit_in_place_change_this_run_only(positions):
    """Positions, forked inputs and the MLP's input are views of what others read; a hook gets a copy."""
    model, inputs = made(d_mlp=8, positions=positions), tokens(batch=1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = model(inputs)

    def zero(value, hook):
        value.zero_()

    for name in ("hook_pos_embed", "blocks.1.hook_k_input", "blocks.1.hook_mlp_in"):
        with torch.no_grad():
            edited = model.run_with_hooks(inputs, fwd_hooks=[(name, zero)])
            expected = model.run_with_hooks(inputs, fwd_hooks=[(name, lambda value, hook: torch.zeros_like(value))])
        assert not torch.allclose(edited, plain)
        torch.testing.assert_close(edited, expected)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
