import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechinterp.attribution import (
    head_score_chance,
    head_scores,
    induction_score,
    logit_attribution,
    logit_lens,
    previous_token_score,
    value_weighted_attention,
)
from mechinterp.core import Batch, ConfigError, UnsupportedError, resolve_metric
from mechinterp.interventions import record
from mechinterp.known.induction import induction_model
from mechinterp.models import ModelConfig, Transformer

ARCHITECTURES = list(
    itertools.product(
        ["LN", "RMS", "none"], ["learned", "rotary", "shortformer", "none"], [0, 10], ["softmax", "linear"]
    )
)


def shaken(**changes) -> Transformer:
    """A model in which every weight, gain and bias is random, in float64."""
    settings = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_vocab": 7, "n_ctx": 6, "unembed_bias": True, **changes}
    model = Transformer(ModelConfig(**settings)).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
    return model


def tokens_batch(vocab=7, batch=5, seq=6) -> Batch:
    draw = torch.Generator().manual_seed(2)
    inputs, targets, wrong = torch.randint(0, vocab, (3, batch, seq), generator=draw)
    scored = torch.rand(batch, seq, generator=draw) < 0.5
    scored[:, -1] = True
    return Batch(inputs, targets, scored, wrong)


@pytest.mark.parametrize(("normalization", "positions", "d_mlp", "attention"), ARCHITECTURES)
def test_attribution_sums_to_the_logit(normalization, positions, d_mlp, attention):
    model = shaken(normalization=normalization, positions=positions, d_mlp=d_mlp, attention=attention)
    batch = tokens_batch()
    logits = model(batch.inputs).detach()
    right = logits.gather(-1, batch.targets[..., None])[..., 0]
    wrong = logits.gather(-1, batch.wrong[..., None])[..., 0]
    wanted = {"logit_diff": right - wrong, "logit": right, "centered_logit": right - logits.mean(-1)}
    for metric, value in wanted.items():
        mean = torch.where(batch.scored, value, 0).sum(1) / batch.scored.sum(1)
        for inputs in ("merged", "split"):
            found = logit_attribution(model, batch, metric=metric, inputs=inputs)
            assert np.allclose(found.sum("component"), mean, atol=1e-10), (metric, inputs)


@given(st.data(), st.sampled_from(["merged", "split"]))
def test_attribution_sums_to_the_logit_in_every_kind_of_model(make_model, make_pair, architectures, data, inputs):
    settings = data.draw(architectures)
    model, batch = make_model(**settings), make_pair(pad=settings["pad_token"]).clean
    right = model(batch.inputs).detach().gather(-1, batch.targets[..., None])[..., 0]
    mean = torch.where(batch.scored, right, 0).sum(1) / batch.scored.sum(1)
    found = logit_attribution(model, batch, metric="logit", inputs=inputs)
    np.testing.assert_allclose(found.sum("component"), mean, rtol=1e-9, atol=1e-9)


def test_an_example_without_a_scored_position_is_missing():
    batch = tokens_batch()
    scored = batch.scored.clone()
    scored[1] = False
    missing = logit_attribution(shaken(), Batch(batch.inputs, batch.targets, scored, batch.wrong)).isnull()
    assert missing.isel(example=1).all() and missing.any("component").sum() == 1


def test_a_components_share_is_what_removing_it_with_the_scale_frozen_costs():
    model, batch = shaken(d_mlp=10), tokens_batch()
    found = logit_attribution(model, batch, metric="logit_diff")
    _, kept = record(model, batch.inputs, ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z", "ln_final.hook_scale"])
    resid, scale = kept["blocks.1.hook_resid_post"], kept["ln_final.hook_scale"]
    without = resid - kept["blocks.0.attn.hook_z"][:, :, 1] @ model.blocks[0].attn.W_O[1]

    def frozen(stream):
        normal = (stream - stream.mean(-1, keepdim=True)) / scale * model.ln_final.w + model.ln_final.b
        return resolve_metric("logit_diff")[1](normal @ model.W_U + model.b_U, batch, None)

    assert np.allclose(found.sel(component="L0.H1"), (frozen(resid) - frozen(without)).detach(), atol=1e-10)


def test_only_the_true_head_writes_the_answer_of_the_hand_made_model():
    made = induction_model()
    batch = made.pair(16, seed=0).clean
    found = logit_attribution(made.model, batch, inputs="split").mean("example")
    writer = next(str(edge.source) for edge in made.circuit if edge.reader.kind == "logits")
    assert float(found.sel(component=writer)) == pytest.approx(8.0)
    assert float(abs(found.drop_sel(component=writer)).max()) < 1e-10


def test_attribution_refuses_what_it_cannot_do():
    batch = tokens_batch()
    with pytest.raises(ConfigError, match="centered_logit"):
        logit_attribution(shaken(), Batch(batch.inputs, batch.targets, batch.scored))
    with pytest.raises(ConfigError, match="Did you mean 'logit_diff'"):
        logit_attribution(shaken(), batch, metric="logit_dif")
    with pytest.raises(ConfigError, match="linear in the logits: logit_diff, logit, centered_logit"):
        logit_attribution(shaken(), batch, metric="log_prob")
    values = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=7, n_ctx=6, outputs="values", d_out=2))
    with pytest.raises(UnsupportedError, match="values"):
        logit_attribution(values, batch)


@pytest.mark.parametrize("d_mlp", [0, 10])
def test_the_lens_ends_at_the_models_own_metric(d_mlp):
    model, batch = shaken(d_mlp=d_mlp), tokens_batch()
    output = model(batch.inputs).detach()
    for name in ("log_prob", "logit_diff", "accuracy"):
        lens = logit_lens(model, batch, name)
        assert np.allclose(lens[-1], resolve_metric(name)[1](output, batch, None), atol=1e-12)
    assert np.allclose(logit_lens(model, batch, "kl")[-1], 0, atol=1e-12)
    assert lens["component"].values[-1] == "L1.resid_post" and len(lens) == (5 if d_mlp else 3)
    _, kept = record(model, batch.inputs, ["blocks.1.hook_resid_pre"])
    early = resolve_metric("accuracy")[1](model.read(kept["blocks.1.hook_resid_pre"]), batch, None)
    assert np.allclose(lens.sel(component="L1.resid_pre"), early.detach())


def test_the_hand_made_heads_have_perfect_scores():
    made = induction_model()
    batch = made.pair(80, seed=0).clean  # more than one chunk
    scores = head_scores(made.model, batch)
    assert scores.dims == ("score", "layer", "head", "example") and scores.sizes["example"] == 80
    true = {edge.reader.layer: edge.reader.head for edge in made.circuit if edge.reader.kind == "q"}
    assert scores.sel(score="previous_token", layer=0, head=true[0]).values == pytest.approx(1.0)
    assert scores.sel(score="induction", layer=1, head=true[1]).values == pytest.approx(1.0)
    chance = head_score_chance(batch)
    # One repeat, at the last of 12 positions: uniform attention puts 1/12 on its successor and on its copy.
    assert chance.sel(score="induction").values == pytest.approx(1 / 12)
    assert chance.sel(score="duplicate_token").values == pytest.approx(1 / 12)
    assert chance.sel(score="previous_token").values == pytest.approx(np.mean([1 / n for n in range(2, 13)]))


def test_heads_with_equal_keys_score_chance():
    model = shaken(positions="none", n_ctx=20)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    batch = tokens_batch(batch=9, seq=20)
    scores, chance = head_scores(model, batch), head_score_chance(batch)
    assert np.allclose(scores, chance.values[:, None, None, :], atol=1e-12)


def test_vectors_have_no_repeated_tokens():
    model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=4, inputs="vectors", d_in=3, d_vocab_out=5, n_ctx=6))
    batch = Batch(torch.randn(4, 6, 3), torch.zeros(4, 6, dtype=torch.long), torch.ones(4, 6, dtype=torch.bool))
    scores = head_scores(model, batch)
    assert scores.sel(score=["induction", "duplicate_token"]).isnull().all()
    assert not scores.sel(score="previous_token").isnull().any()


def test_value_weighted_attention_by_the_definition():
    model, batch = shaken(), tokens_batch()
    found = value_weighted_attention(model, batch)
    assert found["norm"].dims == ("layer", "head", "example", "query", "key")
    _, kept = record(model, batch.inputs, ["blocks.1.attn.hook_pattern", "blocks.1.ln1.hook_normalized"])
    attn = model.blocks[1].attn
    carried = (kept["blocks.1.ln1.hook_normalized"] @ attn.W_V[1] + attn.b_V[1]) @ attn.W_O[1]
    want = kept["blocks.1.attn.hook_pattern"][3, 1, 5, 2] * carried[3, 2].norm()
    assert float(found["norm"][1, 1, 3, 5, 2]) == pytest.approx(want.item(), abs=1e-12)
    assert np.allclose(found["share"].sum("key"), 1) and np.allclose(found["chance"].sum("key"), 1)
    assert float(found["share"][0, 0, 0].values[0, 1:].sum()) == 0.0
    # A value norm that is the same everywhere leaves the pattern as it is, and its chance uniform.
    with torch.no_grad():
        attn.W_V.zero_()
    found = value_weighted_attention(model, batch).isel(layer=1, head=0)
    _, kept = record(model, batch.inputs, ["blocks.1.attn.hook_pattern"])
    assert np.allclose(found["share"], kept["blocks.1.attn.hook_pattern"][:, 0], atol=1e-12)
    share = torch.tensor(found["share"].values)
    assert torch.isfinite(previous_token_score(share)).all() and len(induction_score(share, batch.inputs)) == 5
    assert np.allclose(found["chance"][0], np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None])
