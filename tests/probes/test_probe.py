from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from mechinterp.core import Batch, ConfigError, SiteError, derive_seed
from mechinterp.models import ModelConfig, Transformer
from mechinterp.probes import probe
from mechinterp.probes.linear import Rows, probe_score
from mechinterp.probes.rows import (
    choose_places,
    control_labels,
    features,
    no_control,
    prefix_numbers,
    sequences_of,
    shuffled_labels,
)
from mechinterp.tasks import Task, get


class Halves(Task):
    """A token is a pair (a, b); the answer is a."""

    name: ClassVar[str] = "probe-test-halves"
    length: int = 10

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        draw = torch.Generator().manual_seed(seed)
        a = torch.randint(4, (batch, self.length), generator=draw)
        b = torch.randint(2, (batch, self.length), generator=draw)
        absent = torch.randint(2, (batch, self.length), generator=draw)
        previous = torch.cat([torch.full((batch, 1), -1), a[:, :-1]], 1)
        latents = {"a": a, "b": b, "absent": absent, "previous": previous, "amount": a + 10.0 * b}
        return Batch(4 * b + a, a, torch.ones_like(a, dtype=torch.bool), latents=latents)


class Vectors(Task):
    """Real vectors; the answer is the first entry."""

    name: ClassVar[str] = "probe-test-vectors"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        x = torch.randn(batch, 6, 3, generator=torch.Generator().manual_seed(seed))
        first = x[..., 0].clone()
        first[:, 0] = float("nan")
        return Batch(
            x, x[..., :1], torch.ones(batch, 6, dtype=torch.bool), latents={"first": first, "both": x[..., :2]}
        )


def halves_model(**changes) -> Transformer:
    """Keeps a one-hot and a flag for b; the logits read the one-hot alone, and attention writes nothing."""
    settings = {
        "n_layers": 2, "n_heads": 2, "d_model": 6, "d_vocab": 8, "d_vocab_out": 4, "n_ctx": 10,
        "positions": "none", "normalization": "none", "attn_bias": False,
    }  # fmt: skip
    model = Transformer(ModelConfig(**{**settings, **changes})).double()
    with torch.no_grad():
        model.embed.W_E.zero_()
        for token in range(8):
            model.embed.W_E[token, token % 4] = 1.0
            model.embed.W_E[token, 4] = token // 4
        model.unembed.W_U.zero_()
        model.unembed.W_U[:4] = 6 * torch.eye(4, dtype=torch.float64)
        for block in model.blocks:
            block.attn.W_O.zero_()
    return model


@pytest.fixture(scope="module")
def found():
    model = halves_model()
    return {name: probe(model, Halves(), name, examples=200) for name in ("a", "b", "absent", "previous", "amount")}


def test_a_planted_variable_is_found(found):
    for name in ("a", "b"):
        assert (found[name]["score"] == 1.0).all() and (found[name]["score_low"] > 0.94).all()
        assert found[name].attrs["probe"] == "logistic, accuracy"
    assert (found["amount"]["score"] > 0.999).all() and found["amount"].attrs["probe"] == "ridge, R2"
    assert abs(float(found["amount"]["majority"])) < 0.02


def test_a_variable_that_is_not_there_is_at_chance(found):
    for name, chance in (("absent", 1 / 2), ("previous", 1 / 4)):
        result = found[name]
        # The constant guess lies in the probe's interval, or the probe does worse by overfitting.
        assert (result["score_low"] < chance + 0.03).all() and (abs(result["score"] - chance) < 0.06).all()
    attrs = found["previous"].attrs  # undefined at the first position; at the second every beginning was fitted on
    assert (attrs["positions_scored"], attrs["positions_left_out"]) == (100 * 8, 100)


def test_shuffled_labels_are_at_chance(found):
    # Eight different inputs, three shuffles: a shuffled probe gets 24 guesses, far fewer than there are positions.
    assert (abs(found["a"]["shuffled"] - 1 / 4) < 3 * (3 / 16 / 24) ** 0.5).all()
    assert (abs(found["b"]["shuffled"] - 1 / 2) < 3 * (1 / 4 / 24) ** 0.5).all()
    assert (found["amount"]["shuffled"] < 0.05).all()


def test_erasure_kills_the_variable_and_a_random_one_does_not(found):
    for name, rank in (("a", 3), ("b", 1)):
        assert (found[name]["rank"] == rank).all()
        assert (found[name]["erased"] <= found[name]["erased_high"]).all()
        assert (abs(found[name]["erased"] - found[name]["majority"]) < 0.03).all()
    assert (found["b"]["random_erased"] > 0.7).all()
    assert (abs(found["amount"]["erased"]) < 0.02).all()


def test_decodable_is_not_used(found):
    # Both are decoded perfectly; only a is read by the logits.
    assert abs(found["b"]["effect"].mean("example")).max() < 0.02
    assert (found["a"]["effect"].mean("example") > 1.0).all()
    assert (found["a"]["effect"].mean("example") > found["a"]["effect_random"].mean("example")).all()
    assert (found["b"]["effect_random"].mean("example") > 0.05).all()
    # Without a there is nothing left but the constant guess, one in four.
    left = (found["a"]["clean"] - found["a"]["effect"]).mean("example")
    assert left.values == pytest.approx(-np.log(4), abs=0.02)


def test_divergence_is_measured_from_the_unedited_run():
    result = probe(halves_model(), Halves(), "a", examples=60, with_nulls=False, metric="kl")
    assert np.allclose(result["clean"], 0)
    assert (result["effect"] > 0.5).all()


def test_an_erasure_of_most_dimensions_is_marked(found):
    assert found["b"].attrs["erasure_reason"] == "" and found["a"].attrs["erasure_reason"] == ""  # 3 of 6
    narrow = probe(Transformer(halves_model().config.change(d_model=4)), Halves(), "a", examples=40)
    assert narrow.attrs["erasure_reason"].startswith("3 of 4 dimensions go")


def test_selectivity_only_where_types_outnumber_dimensions(found):
    assert found["b"]["selectivity"].values == pytest.approx(found["b"]["score"] - found["b"]["control"])
    assert not found["b"]["selectivity"].isnull().any() and found["b"].attrs["selectivity_reason"] == ""
    wide = probe(halves_model(d_model=8), Halves(), "b", examples=60, erase=False)
    assert wide["selectivity"].isnull().all() and "8 token types do not outnumber 8" in wide.attrs["selectivity_reason"]


def test_a_probe_cannot_learn_a_labelling_of_many_types():
    rng = np.random.default_rng(0)
    embedding, token = rng.normal(size=(60, 6)), rng.integers(60, size=2000)
    x = embedding[token]
    rows = Rows(x, (x[:, 0] > 0).astype(int), np.arange(2000), token)
    assert no_control(rows) == "" and "do not outnumber" in no_control(replace(rows, x=np.zeros((2000, 60))))
    fit, ask = control_labels(rows, rows, 0)
    assert len({(t, y) for t, y in zip(token, fit.y, strict=True)}) == len(set(token))  # one label per type
    assert probe_score(rows, rows).value > 0.97 and probe_score(fit, ask).value < 0.8


def test_shape_does_not_depend_on_what_is_computed(found):
    bare = probe(halves_model(), Halves(), "a", examples=200, with_nulls=False, erase=False, layer=1)
    assert {name: part.dims for name, part in bare.items()} == {name: part.dims for name, part in found["a"].items()}
    assert bare["effect"].isnull().all() and bare["untrained"].isnull().all()
    assert float(bare["score"][0]) == float(found["a"]["score"].sel(layer=1))


def test_the_untrained_null_finds_what_any_embedding_shows(found):
    # Five of six embedding directions are random: a shows by far less than in the model that holds it.
    assert (found["a"]["untrained"] < found["a"]["score"]).all()
    assert (found["previous"]["untrained"] < 0.4).all()


def test_real_vectors_with_undefined_entries():
    config = ModelConfig(n_layers=1, n_heads=1, d_model=8, n_ctx=6, inputs="vectors", d_in=3, outputs="values", d_out=1)
    result = probe(Transformer(config), Vectors(), "first", site="resid_pre", examples=200)
    assert float(result["score"][0]) > 0.98 and result.attrs["metric"] == "mse"
    assert result.attrs["positions_fitted"] == 100 * 5 and "vectors" in result.attrs["selectivity_reason"]
    both = probe(Transformer(config), Vectors(), "both", site="resid_pre", examples=200)
    assert float(both["score"][0]) > 0.98 and int(both["rank"][0]) == 2 and abs(float(both["erased"][0])) < 0.05


@pytest.mark.parametrize(
    ("site", "positions"),
    [
        *((site, "learned") for site in ("resid_mid", "mlp_post", "mlp_out", "attn", "v", "result", "L1.H1.z")),
        *((site, positions) for site in ("q", "k", "z") for positions in ("rotary", "shortformer")),
    ],
)
def test_every_site_can_be_read_and_erased(site, positions):
    config = ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=12, d_vocab=8, n_ctx=10, positions=positions)
    model = Transformer(config).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = probe(model, Halves(), "b", site=site, examples=60)
    assert result.sizes["layer"] == (1 if site.startswith("L1") else 2)
    # The erasure really reaches the run: something changes, and a probe after it is at chance.
    assert float(abs(result["effect"]).max()) > 1e-6
    assert (abs(result["erased"] - result["majority"]) < 0.06).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_erasing_one_head_leaves_the_others_alone():
    model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=8, n_ctx=10))
    with torch.no_grad():
        model.blocks[0].attn.W_O[0] = 0
    assert float(abs(probe(model, Halves(), "b", site="L0.H0.z", examples=40)["effect"]).max()) == 0
    assert float(abs(probe(model, Halves(), "b", site="L0.H1.z", examples=40)["effect"]).max()) > 1e-4


def test_no_sequence_lies_in_both_halves_and_equal_ones_stay_together():
    inputs = torch.randint(2, (300, 5), generator=torch.Generator().manual_seed(0))  # 32 different ones
    batch = Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool))
    fit, ask = choose_places(batch, inputs, "defined", 10_000, 0)
    first = {tuple(row) for row in inputs[fit.sequences].tolist()}
    second = {tuple(row) for row in inputs[ask.sequences].tolist()}
    assert not first & second and len(first) == len(second) == 16
    assert len(fit.labels) + len(ask.labels) + ask.left_out == 1500 and fit.left_out == 0
    begun = {tuple(inputs[row, : pos + 1].tolist()) for row, pos in zip(fit.sequence, fit.pos, strict=True)}
    scored = {tuple(inputs[row, : pos + 1].tolist()) for row, pos in zip(ask.sequence, ask.pos, strict=True)}
    assert scored and not begun & scored
    # All sixteen beginnings of four tokens may recur; of a whole sequence, which is what the last position sees, none.
    assert (ask.pos == 4).sum() == len(ask.sequences) and (ask.pos == 0).sum() == 0
    _, whole = choose_places(batch, inputs, "defined", 10_000, 0, causal=False)
    assert whole.left_out == 0 and len(whole.labels) == 5 * len(whole.sequences)
    with pytest.raises(ConfigError, match="no defined position to score: the probe would be fitted on all that leads"):
        choose_places(batch, torch.where(torch.arange(5) < 1, inputs, -1), "defined", 10_000, 0)
    capped, _ = choose_places(batch, inputs, "defined", 100, 0)
    assert len(capped.labels) == 100 and set(capped.sequence.tolist()) <= set(fit.sequences.tolist())


def test_beginnings_are_numbered_for_tokens_and_for_vectors():
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4], [2, 2, 3], [1, 2, 3]])
    for inputs in (tokens, torch.stack([tokens, 0 * tokens], -1).float()):
        numbers = prefix_numbers(inputs)
        assert [len(set(numbers[:, pos].tolist())) for pos in range(3)] == [2, 2, 3]
        assert torch.equal(numbers[0], numbers[3]) and torch.equal(numbers[0, :2], numbers[1, :2])
        assert len(set(numbers.flatten().tolist())) == 7  # a place of one position is never one of another


def test_a_bidirectional_model_sees_whole_sequences():
    model = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=6, d_vocab=8, d_vocab_out=4, n_ctx=10, causal=False))
    scores = probe(model, Halves(), "a", examples=60, with_nulls=False, erase=False)
    assert (scores.attrs["positions_scored"], scores.attrs["positions_left_out"]) == (300, 0)


def test_features_are_the_activations_at_the_places():
    model, batch = halves_model(), Halves().batch(50, 1)
    halves = choose_places(batch, batch.latents["a"], "defined", 40, 0)
    [[x, _]] = features(model, batch.inputs, [model.config.graph().check_site("L0.resid_pre")], halves, chunk=7)
    assert torch.equal(x, model.W_E[batch.inputs[halves[0].sequence, halves[0].pos]])
    assert np.array_equal(halves[0].labels, x[:, :4].argmax(1).numpy())


def test_shuffling_keeps_what_position_tells():
    inputs = torch.randint(9, (200, 5), generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs, inputs, torch.ones_like(inputs, dtype=torch.bool))
    mixed = torch.where(torch.arange(5) == 2, torch.full_like(inputs, 3), inputs)
    fit, _ = choose_places(batch, mixed, "defined", 10_000, 0)
    made, pos = shuffled_labels(fit, 0), fit.pos.numpy()
    assert (made[pos == 2] == 3).all()
    assert np.array_equal(np.sort(made[pos == 1]), np.sort(fit.labels[pos == 1]))
    assert (made[pos == 1] == fit.labels[pos == 1]).mean() < 0.3


def test_same_seed_same_numbers():
    one, two, other = (probe(halves_model(), Halves(), "previous", examples=60, seed=seed) for seed in (0, 0, 1))
    assert one.identical(two) and not one.equals(other)


def test_errors_name_what_is_wrong():
    model = halves_model()
    with pytest.raises(ConfigError, match=r"no latent 'amoun'.*'amount'"):
        probe(model, Halves(), "amoun")
    with pytest.raises(SiteError, match="position by position"):
        probe(model, Halves(), "a", site="L0.H0.pattern")
    with pytest.raises(SiteError, match=r"'L2.resid_post': the model has layers 0-1"):
        probe(model, Halves(), "a", layer=2)
    with pytest.raises(SiteError, match="attention only"):
        probe(model, Halves(), "a", site="mlp_out")
    with pytest.raises(ConfigError, match="leave layer out"):
        probe(model, Halves(), "a", site="L0.resid_post", layer=0)
    with pytest.raises(ConfigError, match="'defined' or 'scored'"):
        probe(model, Halves(), "a", where="everywhere")
    with pytest.raises(ConfigError, match="1 different sequences"):
        probe(model, Halves(), "a", examples=1)
    constant = Batch(torch.randint(8, (9, 4)), torch.zeros(9, 4).long(), torch.ones(9, 4).bool())
    with pytest.raises(ConfigError, match="one value only"):
        choose_places(constant, constant.targets, "defined", 10, 0)


def test_a_probe_is_held_to_the_sums_that_training_left_out():
    """Modular addition, whose training set the task knows."""
    task = get("modular", p=11)
    model = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=8, d_vocab=12, n_ctx=3), seed=0)
    options = {"examples": 400, "with_nulls": False, "erase": False}
    scores = probe(model, task, "a", fit_on="train", score_on="test", **options)
    batch = task.batch(400, derive_seed(0, "probe", "examples"))
    known = task.is_training(batch)
    allowed = (sequences_of(batch, task, "train"), sequences_of(batch, task, "test"))
    assert torch.equal(allowed[0], known) and torch.equal(allowed[1], ~known)
    fit, ask = choose_places(batch, batch.latents["a"], "defined", 4096, 0, True, allowed)
    assert known[fit.sequence].all() and not known[ask.sequence].any() and not known[ask.sequences].any()
    assert (scores.attrs["positions_fitted"], scores.attrs["positions_scored"]) == (len(fit.labels), len(ask.labels))
    assert len(fit.labels) < probe(model, task, "a", **options).attrs["positions_fitted"]
    with pytest.raises(ConfigError, match=r"no group of positions 'tests'. Did you mean 'test'"):
        probe(model, task, "a", score_on="tests", **options)
    only = probe(model, task, "a", score_on="test", **options)
    assert (only.attrs["fit_on"], only.attrs["score_on"]) == ("all", "test")
