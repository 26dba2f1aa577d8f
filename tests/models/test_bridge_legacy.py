"""`HookedTransformer` weights in our model, against an independent reference of a few lines.

The state dicts are made here, by the names and shapes that TransformerLens documents; the reference computes what
`HookedTransformer` did: explicit attention, rotary positions on feature halves, norms that may have no weights.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from mechinterp.core import ConfigError, ShapeError, UnsupportedError
from mechinterp.models import from_transformer_lens

L, H, D, K, M, V, C = 2, 2, 12, 6, 10, 9, 8
TOKENS = torch.randint(V, (3, C), generator=torch.Generator().manual_seed(1))
BASE = {
    "n_layers": L, "n_heads": H, "d_model": D, "d_head": K, "d_mlp": M, "n_ctx": C, "d_vocab": V, "act_fn": "gelu_new",
    "normalization_type": "LN", "positional_embedding_type": "standard", "attn_only": False, "d_vocab_out": V,
    "attn_scale": math.sqrt(K), "use_attn_scale": True, "eps": 1e-5, "rotary_base": 10000, "attention_dir": "causal",
    "n_key_value_heads": None, "gated_mlp": False, "attn_scores_soft_cap": -1.0, "seed": 3, "model_name": "custom",
    "use_qk_norm": False, "parallel_attn_mlp": False,
    "init_mode": "gpt2", "rotary_dim": None, "rotary_adjacent_pairs": False, "d_mlp_unknown": None,
}  # fmt: skip


def legacy(**settings):
    """Settings and random weights as `HookedTransformer.state_dict()` named them, buffers included."""
    settings = {**BASE, **settings}
    if settings["positional_embedding_type"] == "rotary":
        settings["rotary_dim"] = settings["rotary_dim"] or K
    draw = torch.Generator().manual_seed(0)

    def random(*shape):
        return 0.5 * torch.randn(*shape, generator=draw, dtype=torch.float64)

    weights = {"embed.W_E": random(V, D), "unembed.W_U": random(D, V), "unembed.b_U": random(V)}
    if settings["positional_embedding_type"] != "rotary":
        weights["pos_embed.W_pos"] = random(C, D)
    norms = ["ln_final"]
    shared = settings["n_key_value_heads"]
    for layer in range(L):
        at = f"blocks.{layer}"
        for name in "QKV":
            # Keys and values of groups of heads had names of their own.
            heads, mark = (shared, "_") if shared and name != "Q" else (H, "")
            weights |= {f"{at}.attn.{mark}W_{name}": random(heads, D, K), f"{at}.attn.{mark}b_{name}": random(heads, K)}
        if settings["use_qk_norm"]:
            weights |= {f"{at}.attn.{name}_norm.w": 1 + random(K) for name in "qk"}
        weights |= {f"{at}.attn.W_O": random(H, K, D), f"{at}.attn.b_O": random(D)}
        weights |= {f"{at}.attn.mask": torch.ones(C, C).tril().bool(), f"{at}.attn.IGNORE": torch.tensor(-torch.inf)}
        if settings["positional_embedding_type"] == "rotary":
            weights |= {f"{at}.attn.rotary_sin": random(C, K), f"{at}.attn.rotary_cos": random(C, K)}
        norms.append(f"{at}.ln1")
        if not settings["attn_only"]:
            weights |= {f"{at}.mlp.W_in": random(D, M), f"{at}.mlp.b_in": random(M)}
            weights |= {f"{at}.mlp.W_out": random(M, D), f"{at}.mlp.b_out": random(D)}
            norms.append(f"{at}.ln2")
            if settings["gated_mlp"]:
                weights[f"{at}.mlp.W_gate"] = random(D, M)
            if settings["act_fn"] == "solu_ln":
                weights |= {f"{at}.mlp.ln.w": 1 + random(M), f"{at}.mlp.ln.b": random(M)}
    for name in norms:
        if settings["normalization_type"] in ("LN", "RMS"):
            weights[f"{name}.w"] = 1 + random(D)
        if settings["normalization_type"] == "LN":
            weights[f"{name}.b"] = random(D)
    return weights, settings


def reference(weights, settings, tokens):
    """HookedTransformer's forward pass, written from its documentation."""

    def norm(x, name):
        kind = settings["normalization_type"]
        if kind is None:
            return x
        if kind.startswith("LN"):
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + settings["eps"]).sqrt()
        return x * weights.get(f"{name}.w", 1.0) + weights.get(f"{name}.b", 0.0)

    def rotate(x):  # [batch seq head d_head]
        size = settings["rotary_dim"]
        return torch.cat([turned(x[..., :size], size), x[..., size:]], -1)

    def turned(x, size):
        frequency = settings["rotary_base"] ** (torch.arange(size // 2, dtype=torch.float64) / (size // 2))
        if settings["rotary_adjacent_pairs"]:
            angle = (torch.arange(x.shape[1])[:, None] / frequency).repeat_interleave(2, 1)
            partner = torch.empty_like(x)
            partner[..., ::2], partner[..., 1::2] = -x[..., 1::2], x[..., ::2]
        else:
            angle = (torch.arange(x.shape[1])[:, None] / frequency).repeat(1, 2)
            partner = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * angle.cos()[:, None] + partner * angle.sin()[:, None]

    def weight(at, name):  # shared keys and values, for each head
        if f"attn._{name}" not in at:
            return at[f"attn.{name}"]
        return at[f"attn._{name}"].repeat_interleave(H // settings["n_key_value_heads"], 0)

    kind = settings["positional_embedding_type"]
    x = weights["embed.W_E"][tokens]
    position = weights["pos_embed.W_pos"][: tokens.shape[1]] if kind != "rotary" else 0.0
    x = x + position if kind == "standard" else x
    for layer in range(L):
        at = {name.removeprefix(f"blocks.{layer}."): value for name, value in weights.items()}
        normed = norm(x, f"blocks.{layer}.ln1")
        asked = normed + position if kind == "shortformer" else normed
        q, k, v = (
            torch.einsum("bsm,hmd->bshd", normed if name == "V" else asked, weight(at, f"W_{name}"))
            + weight(at, f"b_{name}")
            for name in "QKV"
        )
        if settings["use_qk_norm"]:
            q, k = (
                part / (part.pow(2).mean(-1, keepdim=True) + settings["eps"]).sqrt() * at[f"attn.{name}_norm.w"]
                for name, part in (("q", q), ("k", k))
            )
        if kind == "rotary":
            q, k = rotate(q), rotate(k)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k)
        if settings["use_attn_scale"]:
            scores = scores / settings["attn_scale"]
        if settings["attention_dir"] == "causal":
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        z = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        before = x
        x = x + torch.einsum("bqhd,hdm->bqm", z, at["attn.W_O"]) + at["attn.b_O"]
        if not settings["attn_only"]:
            read = norm(before if settings["parallel_attn_mlp"] else x, f"blocks.{layer}.ln2")
            inner = read @ (at["mlp.W_gate"] if settings["gated_mlp"] else at["mlp.W_in"])
            inner = inner if settings["gated_mlp"] else inner + at["mlp.b_in"]
            if settings["act_fn"] == "gelu_new":
                cubic = math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)
                inner = 0.5 * inner * (1 + torch.tanh(cubic))
            elif settings["act_fn"] == "solu_ln":
                inner = inner * inner.softmax(-1)
                inner = functional.layer_norm(inner, (M,), at["mlp.ln.w"], at["mlp.ln.b"], settings["eps"])
            else:
                inner = getattr(functional, settings["act_fn"])(inner)
            if settings["gated_mlp"]:
                inner = inner * (read @ at["mlp.W_in"]) + at["mlp.b_in"]
            x = x + inner @ at["mlp.W_out"] + at["mlp.b_out"]
    return norm(x, "ln_final") @ weights["unembed.W_U"] + weights["unembed.b_U"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attn_only": True, "act_fn": "solu"},
        {"normalization_type": "LNPre"},
        {"normalization_type": "RMSPre", "act_fn": "silu"},
        {"normalization_type": "RMS", "act_fn": "relu"},
        {"normalization_type": None, "attention_dir": "bidirectional", "act_fn": "gelu"},
        {"positional_embedding_type": "rotary"},
        {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True, "rotary_base": 100},
        {"positional_embedding_type": "shortformer"},
        {"use_attn_scale": False},
        {"attn_scale": 1.5},
        {"eps": 0.3},
        {"act_fn": "solu_ln"},
        {"parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 4},
        {"gated_mlp": True, "act_fn": "silu", "normalization_type": "RMS", "eps": 1e-6, "n_key_value_heads": 1},
        {"positional_embedding_type": "rotary", "use_qk_norm": True, "n_key_value_heads": 1},
    ],
    ids=str,
)
def test_the_same_function(settings):
    weights, settings = legacy(**settings)
    model = from_transformer_lens(weights, settings)
    expected = reference(weights, settings, TOKENS)
    assert model.dtype == torch.float64 and expected.std() > 0.5
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-9, atol=1e-9)


def test_halves_become_pairs_exactly():
    """No rounding: only the order of features changes, and values are not touched."""
    weights, settings = legacy(positional_embedding_type="rotary")
    model = from_transformer_lens(weights, settings)
    assert torch.equal(model.W_Q[1, 0][:, [0, 2, 4, 1, 3, 5]], weights["blocks.1.attn.W_Q"][0])
    assert torch.equal(model.b_K[0][:, [0, 2, 4, 1, 3, 5]], weights["blocks.0.attn.b_K"])
    assert torch.equal(model.W_V[0], weights["blocks.0.attn.W_V"])


def test_an_unused_bias_of_the_unembedding_is_left_out():
    weights, settings = legacy()
    assert from_transformer_lens(weights, settings).config.unembed_bias
    weights["unembed.b_U"].zero_()
    assert not from_transformer_lens(weights, settings).config.unembed_bias


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_local_attn": True}, "use_local_attn=True"),
        ({"attn_scores_soft_cap": 30.0}, "attn_scores_soft_cap=30.0"),
        ({"act_fn": "xielu", "final_rms": True}, "final_rms=True: .*; act_fn='xielu'"),
        ({"positional_embedding_type": "alibi"}, "positional_embedding_type='alibi'"),
    ],
)
def test_settings_without_a_counterpart_are_refused_by_name(settings, named):
    weights, settings = legacy(**settings)
    with pytest.raises(UnsupportedError, match=named):
        from_transformer_lens(weights, settings)


def test_scaling_by_parts_is_that_of_llama3():
    weights, settings = legacy(positional_embedding_type="rotary", use_NTK_by_parts_rope=True, NTK_by_parts_factor=4.0)
    config = from_transformer_lens(weights, {**settings, "NTK_original_ctx_len": 16}).config
    assert (config.rotary_scaling, config.rotary_factor, config.rotary_ctx) == ("llama3", 4.0, 16)


def test_settings_come_as_an_object_too():
    weights, settings = legacy()
    model = from_transformer_lens(weights, SimpleNamespace(**settings))
    torch.testing.assert_close(model(TOKENS), from_transformer_lens(weights, settings)(TOKENS))
    with pytest.raises(ConfigError, match="needs the settings"):
        from_transformer_lens(weights)


def test_weights_that_do_not_fit_are_refused():
    weights, settings = legacy()
    without = {name: value for name, value in weights.items() if name != "blocks.1.mlp.W_in"}
    with pytest.raises(ShapeError, match=r"lack 'blocks\.1\.mlp\.W_in'"):
        from_transformer_lens(without, settings)
    with pytest.raises(ShapeError, match=r"no place .* 'blocks\.0\.mlp\.ln\.w'"):
        from_transformer_lens({**weights, "blocks.0.mlp.ln.w": torch.ones(M)}, settings)
    with pytest.raises(ShapeError, match=r"W_Q' is \[2, 12, 6\], and the settings say \[4, 12, 3\]"):
        from_transformer_lens(weights, {**settings, "n_heads": 4, "d_head": 3})
    with pytest.raises(ConfigError, match="d_vocab"):
        from_transformer_lens(weights, {**settings, "d_vocab": None})
