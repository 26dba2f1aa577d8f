"""`discover` on the hand-made model, whose circuit is known."""

from importlib import import_module

import pytest
import torch

from mechinterp.core import (
    METRICS,
    Circuit,
    ConfigError,
    SiteError,
    UnsupportedError,
    example_names,
    join_names,
    split_names,
)
from mechinterp.discovery import discover
from mechinterp.known.induction import induction_model
from mechinterp.patching import estimate_edges, patch_edges


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=2)


@pytest.mark.parametrize("method", ["acdc", "top-k"])
def test_zero_ablation_finds_all_seven_true_edges_and_no_other(made, method):
    assert discover(made.model, made.pair(16), method=method, ablation="zero", inputs="split") == made.circuit


@pytest.mark.parametrize("corruption", ["successor", "match", "query"])
@pytest.mark.parametrize("method", ["acdc", "top-k"])
def test_resampling_finds_what_it_can_see(made, method, corruption):
    pair = made.pair(16, corruption=corruption)
    found = discover(made.model, pair, method=method, inputs="split")
    assert found == made.seen("resample", corruption).pruned()


def test_merged_inputs_find_the_same_circuit_in_merged_words(made):
    found = discover(made.model, made.pair(16), method="acdc", ablation="zero")
    merged = {str(e).replace("embed->", "input->").replace("pos->", "input->") for e in made.circuit}
    assert found == Circuit(merged)


def test_origin_tells_how_it_was_found(made):
    pair = made.pair(16, seed=3)
    found = discover(
        made.model, pair, method="acdc", metric="kl", inputs="split", order="shuffle", seed=5, threshold=0.1
    )
    assert dict(found.origin) == {
        "method": "acdc",
        "metric": "kl",
        "ablation": "resample",
        "pair": pair.fingerprint,
        "examples": 16,
        "seen": join_names(example_names(pair)),
        "threshold": 0.1,
        "order": "shuffle",
        "seed": 5,
    }
    assert Circuit.from_dict(found.to_dict()).origin == found.origin
    top = discover(made.model, pair, inputs="split", k=2)
    assert top.origin["k"] == 2 and top.origin["metric"] == "logit_diff" and "share" not in top.origin


def test_an_own_order_is_taken_and_recorded(made):
    order = [str(edge) for edge in reversed(made.model.config.graph("split").edges)]
    found = discover(made.model, made.pair(8), method="acdc", inputs="split", order=order)
    assert list(found.origin["order"]) == order
    assert found == discover(made.model, made.pair(8), method="acdc", inputs="split", order="backward")


def test_mse_is_taken_where_asked(made):
    """The right answer's logit is 8, one-hot targets are 1: by squared distance the empty circuit is the best."""
    found = discover(
        made.model, made.pair(8), method="acdc", ablation="zero", inputs="split", metric="mse", threshold=0.5
    )
    assert len(found) == 0 and found.origin["metric"] == "mse"


def test_metrics_may_be_functions(made):
    assert (
        discover(made.model, made.pair(8), ablation="zero", inputs="split", metric=METRICS["kl"], method="acdc")
        == made.circuit
    )


def test_the_model_is_left_as_it_was(made):
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    discover(made.model, made.pair(4), inputs="split")
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_settings_that_mean_nothing_are_refused(made):
    pair = made.pair(4)
    with pytest.raises(ConfigError, match=r"no method 'adcd'\. Did you mean 'acdc'"):
        discover(made.model, pair, method="adcd")
    with pytest.raises(ConfigError, match="ACDC takes a threshold, or share or k"):
        discover(made.model, pair, method="acdc", k=3, threshold=0.1)
    with pytest.raises(ConfigError, match="takes share, k and two_sided, not seed"):
        discover(made.model, pair, method="greedy", seed=3)
    with pytest.raises(ConfigError, match="takes share, k and scores, not threshold"):
        discover(made.model, pair, method="top-k", threshold=0.1)
    with pytest.raises(UnsupportedError, match="Linear lists no edges"):
        discover(torch.nn.Linear(2, 2), pair)


def test_scores_are_taken_instead_of_computing_them_twice(made, monkeypatch):
    pair = made.pair(16, corruption="match")
    effects, plain = patch_edges(made.model, pair, inputs="split"), discover(made.model, pair, inputs="split")
    estimates = estimate_edges(made.model, pair, inputs="split")
    module = import_module("mechinterp.discovery.ranking")
    monkeypatch.setattr(module, "patch_edges", lambda *_, **__: pytest.fail("computed again"))
    for scores in (effects, effects["effect"], effects["effect"].mean("example"), effects["effect"][::-1]):
        assert discover(made.model, pair, inputs="split", scores=scores) == plain
    reached = discover(made.model, pair, inputs="split", scores=effects)
    assert reached.origin == {**plain.origin, "scores": "exact"}
    assert discover(made.model, pair, inputs="split", scores=estimates, k=3).origin["scores"] == "eap-ig"
    # The ranking is that of the scores: turned round, another circuit comes out.
    assert discover(made.model, pair, inputs="split", scores=-effects["effect"], k=3) != discover(
        made.model, pair, inputs="split", scores=effects, k=3
    )


def test_scores_of_other_edges_are_refused(made):
    pair = made.pair(4)
    merged = patch_edges(made.model, pair)
    with pytest.raises(SiteError, match=r"no edge 'input->L0\.H0\.q'"):
        discover(made.model, pair, inputs="split", scores=merged)
    with pytest.raises(ConfigError, match=f"1 of {merged.sizes['edge']} edges have no score"):
        discover(made.model, pair, scores=merged["effect"][1:])
    with pytest.raises(ConfigError, match="takes threshold, share, k, order and seed, not scores"):
        discover(made.model, pair, method="acdc", scores=merged)
    with pytest.raises(ConfigError, match="edge scores have dimension 'edge'"):
        discover(made.model, pair, scores=merged["clean"])


def test_a_circuit_has_seen_the_examples_of_its_search_and_of_its_scores(made):
    one, other = made.pair(8, seed=3), made.pair(8, seed=4)
    both = set(example_names(one)) | set(example_names(other))
    for scores in (patch_edges(made.model, other, inputs="split"), estimate_edges(made.model, other, inputs="split")):
        assert split_names(scores.attrs["seen"]) == set(example_names(other))
        found = discover(made.model, one, inputs="split", scores=scores, k=3)
        assert split_names(found.origin["seen"]) == both and len(both) == 16
