"""Node effects: the fast engine against one hooked forward pass per patch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.core import Batch, ConfigError, Options, Pair, SiteError, UnsupportedError
from mechinterp.patching import patch_nodes, recovery
from mechinterp.patching.places import places
from mechinterp.patching.plain import plain_nodes
from mechinterp.patching.select import select_nodes

KINDS = ["z", "result", "q", "k", "v", "pattern", "resid_pre", "resid_post", "attn", "embed", "input"]
HOW = [("denoise", "resample"), *(("noise", ablation) for ablation in ("resample", "zero", "mean", "mean-pos"))]
MLP_KINDS = ["mlp", "resid_mid", "mlp_post"]


@settings(max_examples=120)
@given(
    st.data(),
    st.sampled_from(KINDS + MLP_KINDS),
    st.sampled_from(["pos", "role", "all"]),
    st.sampled_from(HOW),
    st.sampled_from(["logit_diff", "kl", "log_prob"]),
    st.booleans(),
    st.sampled_from([0.0001, 64.0]),
)
def test_the_engine_equals_the_plain_loop(
    make_model, make_pair, architectures, data, kind, at, how, metric, one_scored, budget
):
    config = data.draw(architectures)
    if kind in MLP_KINDS:
        config = {**config, "d_mlp": 5}
    if kind == "resid_mid":
        config = {**config, "parallel_blocks": False}
    model = make_model(**config)
    pair = make_pair(one_scored=one_scored, batch=3, seq=7, pad=config["pad_token"])
    direction, ablation = how
    options = Options(metric=metric, direction=direction, ablation=ablation, budget_mb=budget)
    fast = patch_nodes(model, pair, site=kind, at=at, options=options)
    slow = plain_nodes(model, pair, select_nodes(model, kind), places(pair.clean, at), options)
    assert fast["effect"].dims == slow["effect"].dims
    scale = max(1.0, *(float(np.nanmax(np.abs(slow[name].values))) for name in ("effect", "clean", "corrupted")))
    for name in ("effect", "clean", "corrupted"):
        np.testing.assert_allclose(fast[name].values, slow[name].values, rtol=0, atol=1e-9 * scale)


def test_patching_a_run_with_itself_changes_nothing(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    same = Pair(pair.clean, pair.clean)
    for kind in KINDS + MLP_KINDS:
        assert np.abs(patch_nodes(model, same, site=kind, at="pos")["effect"].values).max() < 1e-12, kind


def test_putting_everything_back_recovers_everything(make_model, make_pair):
    model, pair = make_model(), make_pair(batch=16)
    whole = patch_nodes(model, pair, site="resid_pre", at="all", metric="log_prob")
    gap = (whole["clean"] - whole["corrupted"]).values
    np.testing.assert_allclose(whole["effect"].values, np.broadcast_to(gap, (3, 16)), rtol=1e-9, atol=1e-9)


def test_dimensions_are_as_tabulated(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    table = {
        "z": ("layer", "head"), "pattern": ("layer", "head"), "resid_pre": ("layer",), "mlp": ("layer",),
        "mlp_post": ("layer", "feature"), "embed": (), "pos": (), "input": (),
    }  # fmt: skip
    for kind, dims in table.items():
        for at, place in [("pos", ("pos",)), ("role", ("role",)), ("all", ())]:
            assert patch_nodes(model, pair, site=kind, at=at)["effect"].dims == (*dims, *place, "example")
    one = patch_nodes(model, pair, site="L1.H1.z", at="role")["effect"]
    every = patch_nodes(model, pair, site="z", at="role")["effect"]
    np.testing.assert_allclose(one.values, every.sel(layer=[1], head=[1]).values, atol=1e-12)
    assert list(one["role"].values) == ["here", "maybe"]


def test_an_absent_role_is_nan_for_its_example_only(make_model, make_pair):
    pair = make_pair(batch=12)
    effect = patch_nodes(make_model(), pair, site="z", at="role")["effect"]
    absent = (pair.clean.roles["maybe"] == -1).numpy()
    assert absent.any() and not absent.all()
    assert (np.isnan(effect.sel(role="maybe").values) == absent).all()
    assert not np.isnan(effect.sel(role="here").values).any()


def test_a_patch_after_the_last_scored_position_is_exactly_zero(make_model, make_pair):
    pair = make_pair(one_scored=True)
    effect = patch_nodes(make_model(), pair, site="resid_pre", at="pos")["effect"]
    scored = pair.clean.scored.to(torch.int8).argmax(1).numpy()
    for example, last in enumerate(scored):
        assert (effect.isel(example=example, pos=slice(last + 1, None)).values == 0).all()
        assert np.abs(effect.isel(example=example, pos=last).values).max() > 1e-6


def test_bad_arguments_are_one_clear_line(make_model, make_pair):
    model, pair = make_model(), make_pair()
    bare = Pair(*(Batch(b.inputs, b.targets, b.scored, b.wrong) for b in (pair.clean, pair.corrupted)))
    for arguments, error, says in [
        ({"site": "L5.H0.z"}, SiteError, r"no site 'L5.H0.z'.*Did you mean 'L2.H0.z'"),
        ({"site": "L0.H7.z"}, SiteError, r"Did you mean 'L0.H1.z'"),
        ({"site": "zed"}, SiteError, "no site of kind 'zed'"),
        ({"site": "logits"}, SiteError, "no node effects for 'logits'"),
        ({"site": "mlp"}, SiteError, "attention only"),
        ({"site": "resid_mid"}, SiteError, "attention only"),
        ({"at": "roles"}, ConfigError, "Did you mean 'role'"),
        ({"direction": "noising"}, ConfigError, "Did you mean 'noise'"),
        ({"ablation": "zero"}, ConfigError, "use direction='noise'"),
        ({"metric": "logitdiff"}, ConfigError, "Did you mean 'logit_diff'"),
    ]:
        with pytest.raises(error, match=says):
            patch_nodes(model, pair, **arguments)
    with pytest.raises(ConfigError, match="has none"):
        patch_nodes(model, bare, at="role")
    with pytest.raises(SiteError, match="positions='rotary'"):
        patch_nodes(make_model(positions="rotary"), pair, site="pos")
    with pytest.raises(UnsupportedError, match="no hook points"):
        patch_nodes(torch.nn.Linear(1, 1), pair)


def test_recovery_of_an_untrained_model_is_flagged(make_model, make_pair):
    made = recovery(patch_nodes(make_model(), make_pair(batch=8), site="z", at="pos"))
    assert not made["valid"].item() and np.isnan(made["recovery"].values).all()
