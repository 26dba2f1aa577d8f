import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, vmap

from mechinterp.core import ConfigError, ShapeError, SiteError, UnsupportedError
from mechinterp.models import ModelConfig, Positions, Transformer

TOKENS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))


@given(st.data())
def test_the_number_of_weights_is_known_before_a_model_is_built(make_model, architectures, data):
    settings = data.draw(architectures)
    model = make_model(**settings)
    matrices = [value for name, value in model.state_dict().items() if name.rsplit(".", 1)[-1].startswith("W_")]
    assert model.config.n_weights == sum(value.numel() for value in matrices)


@given(st.data())
def test_looking_changes_nothing(make_model, architectures, data):
    """Hooks on every point materialise scores, results and forks; the output stays the same."""
    settings = data.draw(architectures)
    model = make_model(**settings)
    plain = model(TOKENS)
    cached, cache = model.run_with_cache(TOKENS)
    torch.testing.assert_close(cached, plain, rtol=1e-9, atol=1e-9)
    assert set(cache.keys()) == set(model.hook_dict)


@given(st.data())
def test_causal_models_do_not_look_ahead(make_model, architectures, data):
    settings = data.draw(architectures)
    model = make_model(**{**settings, "causal": True})
    changed = TOKENS.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 20
    a, b = model(TOKENS), model(changed)
    torch.testing.assert_close(a[:, :6], b[:, :6], rtol=1e-12, atol=1e-12)
    assert (a[:, 6:] - b[:, 6:]).abs().max() > 1e-6


@given(st.data())
def test_vmap_over_weights_agrees_with_a_loop(make_model, architectures, data):
    settings = data.draw(architectures)
    model = make_model(**settings)
    weights = {name: torch.stack([w.detach(), w.detach() * 1.1]) for name, w in model.named_parameters()}
    together = vmap(lambda w: functional_call(model, w, (TOKENS,)))(weights)
    for i in range(2):
        alone = functional_call(model, {name: w[i] for name, w in weights.items()}, (TOKENS,))
        torch.testing.assert_close(together[i], alone, rtol=1e-9, atol=1e-9)


def test_every_hook_is_real(make_model):
    """Editing a hook point changes the logits: none is a decoration."""
    gated = {"gated_mlp": True, "n_kv_heads": 1, "qk_norm": True, "smeared_keys": True, "act_fn": "solu_ln"}
    model = make_model(d_mlp=8, positions="rotary", **gated)
    plain = model(TOKENS)
    for name in model.hook_dict:
        point = name.rsplit(".", 1)[-1]
        draw = torch.Generator().manual_seed(1)

        def edit(value, hook, draw=draw):
            return value * (1 + 0.5 * torch.rand(value.shape, generator=draw, dtype=value.dtype))

        def mask_safe(value, hook, edit=edit):
            return torch.where(value.isinf(), value, edit(value.nan_to_num(neginf=0.0), hook))

        moved = model.run_with_hooks(TOKENS, fwd_hooks=[(name, mask_safe)])
        assert (moved - plain).abs().max() > 1e-4, point
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_points())


def test_activations_mean_what_their_names_say(make_model):
    model = make_model(d_mlp=8)
    logits, cache = model.run_with_cache(TOKENS)
    for layer in range(3):
        at = f"blocks.{layer}"
        pattern = cache[f"{at}.attn.hook_pattern"]
        assert pattern.shape == (3, 2, 9, 9)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 9, dtype=pattern.dtype))
        torch.testing.assert_close(pattern, cache[f"{at}.attn.hook_attn_scores"].softmax(-1))
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, cache[f"{at}.attn.hook_v"])
        torch.testing.assert_close(cache[f"{at}.attn.hook_z"], z)
        written = cache[f"{at}.attn.hook_result"].sum(2) + model.blocks[layer].attn.b_O
        torch.testing.assert_close(cache[f"{at}.hook_attn_out"], written)
        mid = cache[f"{at}.hook_resid_pre"] + cache[f"{at}.hook_attn_out"]
        torch.testing.assert_close(cache[f"{at}.hook_resid_mid"], mid)
        torch.testing.assert_close(cache[f"{at}.hook_resid_post"], mid + cache[f"{at}.hook_mlp_out"])
    embedded = cache["hook_embed"] + cache["hook_pos_embed"]
    torch.testing.assert_close(cache["blocks.0.hook_resid_pre"], embedded)
    torch.testing.assert_close(logits, cache["ln_final.hook_normalized"] @ model.W_U)


def test_rotary_attention_depends_on_distance_only(make_model):
    attn = make_model(positions="rotary", n_layers=1).blocks[0].attn
    q = torch.randn(1, 1, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).expand(1, 9, 2, 8)
    k = torch.randn(1, 1, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).expand(1, 9, 2, 8)
    where = Positions.whole(9)
    scores = torch.einsum("bqhd,bkhd->bhqk", attn.rotate(q, where), attn.rotate(k, where))[0, 0]
    for shift in (0, 2, 5):
        diagonal = scores.diagonal(-shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (scores[5, 3] - scores[5, 1]).abs() > 1e-3


def test_real_vectors_in_and_out():
    model = Transformer(
        ModelConfig(n_layers=1, n_heads=1, d_model=8, n_ctx=4, inputs="vectors", d_in=3, outputs="values", d_out=2)
    )
    assert model(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))).shape == (5, 4, 2)
    with pytest.raises(ShapeError, match=r"vectors \[batch, seq, 3\]"):
        model(torch.zeros(5, 4, dtype=torch.long))


def test_initial_weights_have_the_stated_spread():
    model = Transformer(ModelConfig(n_layers=1, n_heads=4, d_model=64, d_vocab=200, n_ctx=64, d_mlp=256))
    for name, expected in [("embed.W_E", 64), ("blocks.0.attn.W_Q", 64), ("blocks.0.attn.W_O", 64),
                           ("blocks.0.mlp.W_in", 64), ("blocks.0.mlp.W_out", 256), ("unembed.W_U", 64)]:  # fmt: skip
        assert model.get_parameter(name).std().item() == pytest.approx(expected**-0.5, rel=0.05), name
    again = Transformer(model.config, seed=0)
    deeper = Transformer(model.config.change(n_layers=2), seed=0)
    other = Transformer(model.config, seed=1)
    assert torch.equal(model.W_E, again.W_E) and torch.equal(model.W_Q[0], deeper.W_Q[0])
    assert not torch.equal(model.W_E, other.W_E)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"d_modell": 8}, "no setting 'd_modell'. Did you mean 'd_model'"),
        ({"n_heads": 3}, "d_model=16 is no multiple of n_heads=3"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"d_vocab": None}, "needs d_vocab"),
        ({"outputs": "values"}, "needs d_out"),
        ({"positions": "rotary", "d_head": 3}, "even d_head"),
        ({"positions": "alibi"}, "positions='alibi'"),
    ],
)
def test_a_bad_setting_is_one_clear_line(settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        ModelConfig(**{"n_layers": 1, "n_heads": 2, "d_model": 16, "d_vocab": 5, "n_ctx": 4, **settings})
    assert "\n" not in str(caught.value)


def test_bad_names_and_inputs(make_model):
    model = make_model()
    with pytest.raises(SiteError, match=r"Did you mean 'blocks.0.attn.hook_pattern'"):
        model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_patern", lambda value, hook: value)])
    with pytest.raises(SiteError, match=r"no hook 'blocks.7.hook_resid_pre'"):
        model.add_hook("blocks.7.hook_resid_pre", lambda value, hook: value)
    with pytest.raises(ShapeError, match="n_ctx is 9"):
        model(torch.zeros(1, 10, dtype=torch.long))
    with pytest.raises(UnsupportedError, match="no W_pos"):
        _ = make_model(positions="rotary").W_pos
