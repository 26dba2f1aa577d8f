"""Attention by offset and by role: hand-made heads, attention read off by hand, roles that are absent or unknown."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, Pair, SiteError, derive_seed
from mechinterp.interventions import record
from mechinterp.known.induction import KnownModel, induction_model
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Classification, Induction, MovingSum


class HandMadePairs(Induction):
    """Pairs of the hand-made model; the first `lacking` examples have no place `first_B`."""

    name = "pairs-for-role-attention"
    lacking: int = 0

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        pair = induction_model().pair(batch, seed, "match")
        roles = {name: place.clone() for name, place in pair.clean.roles.items()}
        roles["same_place"] = roles["first_B"].clone()
        roles["first_B"][: self.lacking] = -1
        return Pair(replace(pair.clean, roles=roles), pair.corrupted)


@pytest.fixture(scope="module")
def made() -> KnownModel:
    return induction_model(inert_heads=1)


@pytest.fixture(scope="module")
def classifier() -> tuple[Transformer, Classification]:
    task = Classification(classes=64)
    return Transformer(ModelConfig(**task.preset().model), seed=3), task


def true_head(circuit: Circuit, layer: int) -> int:
    """Number of the layer's head whose queries the circuit feeds."""
    edge = next(str(edge) for edge in circuit if f"->L{layer}" in str(edge) and str(edge).endswith(".q"))
    return int(edge.split(".H")[-1].split(".")[0])


def test_the_hand_made_heads_attend_where_they_were_made_to(made: KnownModel):
    first, second = true_head(made.circuit, 0), true_head(made.circuit, 1)
    back = measure("role_attention", query="first_B", key="first_A")(made.model, HandMadePairs())
    assert back.dims == ("layer", "head", "example") and back.shape == (2, 2, 64)
    assert np.allclose(back[0, first], 1) and back[0, 1 - first].mean() < 0.5
    match = measure("role_attention", query="answer", key="first_B")(made.model, HandMadePairs())
    assert np.allclose(match[1, second], 1) and match[1, 1 - second].mean() < 0.5
    assert np.allclose(
        measure("role_attention", query="answer", key="other_B")(made.model, HandMadePairs())[1, second], 0
    )


def test_attention_is_added_up_over_the_keys(classifier: tuple[Transformer, Classification]):
    model, task = classifier
    found = measure("role_attention", query="query", key="right_label_*", examples=8)(model, task, 5)
    batch = task.pair(8, derive_seed(5, "measure", "role_attention")).clean
    for layer in range(2):
        hook = f"blocks.{layer}.attn.hook_pattern"
        pattern = record(model, batch.inputs, [hook])[1][hook]
        for row in range(8):
            places = [int(batch.roles[f"right_label_{copy}"][row]) for copy in (1, 2)]
            by_hand = sum(float(pattern[row, 0, -1, place]) for place in places)
            assert float(found[layer, 0, row]) == pytest.approx(by_hand, abs=1e-6)
    parts = [
        measure("role_attention", query="query", key=f"right_label_{copy}", examples=8)(model, task, 5)
        for copy in (1, 2)
    ]
    assert np.allclose(found, parts[0] + parts[1], atol=1e-6)


def test_a_place_with_two_roles_counts_once_and_an_absent_role_is_undefined(made: KnownModel):
    def paid(query: str, key: list[str], **settings):
        task = HandMadePairs(**settings)
        return measure("role_attention", query=query, key=key, corruption="match")(made.model, task)

    assert np.allclose(paid("answer", ["first_B", "same_place"]), paid("answer", ["first_B"]))
    lacking = paid("answer", ["first_B"], lacking=3)
    assert np.isnan(lacking[..., :3]).all() and np.isfinite(lacking[..., 3:]).all()
    assert np.isnan(paid("first_B", ["first_A"], lacking=3)[..., :3]).all()
    assert np.allclose(paid("answer", ["first_B", "same_place"], lacking=3), paid("answer", ["first_B"]))


def test_an_unknown_role_is_named(classifier: tuple[Transformer, Classification]):
    model, task = classifier
    with pytest.raises(SiteError, match=r"no role 'right_lable_1'.*right_label_1"):
        measure("role_attention", query="query", key="right_lable_1")(model, task)
    with pytest.raises(SiteError, match="no role 'answer'"):
        measure("role_attention", query="answer", key="query")(model, task)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("attention", ["uniform", "linear"])
def test_attention_by_offset_is_the_mean_share_over_scored_positions(attention):
    task = MovingSum(p=5, numbers=4)
    settings = {**task.preset().model, "d_model": 16, "d_mlp": 8, "attention": attention}
    model = Transformer(ModelConfig.of(settings), seed=0)
    shares = measure("offset_attention", offsets=task.window_offsets, examples=3)(model, task, 0)
    assert shares.dims == ("layer", "head", "example") and shares.shape == (1, 1, 3)
    if attention == "uniform":  # of 5, 6, 7 and 8 positions one, two, two and two
        assert shares.values == pytest.approx((1 / 5 + 2 / 6 + 2 / 7 + 2 / 8) / 4)
        return
    batch = task.batch(3, derive_seed(0, "measure", "loss"))
    pattern = record(model, batch.inputs, ["blocks.0.attn.hook_pattern"])[1]["blocks.0.attn.hook_pattern"][:, 0].abs()
    right = [[4 + j - back for back in (4, 5) if 4 + j - back >= 0] for j in range(4)]
    by_hand = [
        np.mean([float(pattern[row, 4 + j, keys].sum() / pattern[row, 4 + j].sum()) for j, keys in enumerate(right)])
        for row in range(3)
    ]
    assert shares.values[0, 0] == pytest.approx(by_hand, rel=1e-5)
