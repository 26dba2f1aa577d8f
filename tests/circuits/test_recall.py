"""Associative recall under its claims, and models under which these must fail."""

import pytest

from mechinterp.claims import LoadedCircuit, load_circuit, verify
from mechinterp.measures import measure

# What makes up the circuit and its effect: no model without it may pass. Where the value or the query itself is
# corrupted, a model that merely names values has a small gap too, so these claims say nothing of such models.
CENTRAL = [
    "recalls-of-eight",
    "recalls-of-sixteen",
    "closest-to-lookup",
    "far-queries",
    "previous-token-head",
    "circuit-of-keys-not-chance",
]
# These name heads or edges of layer 1: without such a layer they cannot be asked.
NAME_LAYER_1 = ["retrieval-head", "keys-reach-keys", "shipped-circuit"]
NOT_REPRODUCED = {"unseen-load-beyond", "circuit-of-keys-removed-not-chance"}
NOT_TESTABLE = {"convolutions-need-more-width"}


@pytest.fixture(scope="module")
def shipped() -> LoadedCircuit:
    return load_circuit("recall")


def test_every_claim_comes_out_as_stated():
    results = {one.claim: one for one in verify("recall")}
    assert [name for name, one in results.items() if one.failed] == []
    assert {
        name for name, one in results.items() if one.verdict == "not reproduced" and not one.reason
    } == NOT_REPRODUCED
    assert {name for name, one in results.items() if one.verdict.startswith("not testable")} == NOT_TESTABLE
    assert not any(one.verdict == "weaker" for one in results.values())
    # Of twenty pairs it finds the sixteen that stand where pairs stood in training, and no other.
    assert results["unseen-load-beyond"].measured == pytest.approx(16 / 20, abs=0.01)
    assert results["one-layer-guesses-of-sixteen"].measured == pytest.approx(1 / 16, abs=0.01)


def test_an_untrained_model_fails_all_that_is_central(shipped: LoadedCircuit, failing):
    claims = [*CENTRAL, *NAME_LAYER_1]
    assert failing("recall", claims, two_layer=shipped.models["two-layer"].untrained) == set(claims)


def test_one_layer_fails_all_that_is_central(shipped: LoadedCircuit, failing):
    assert failing("recall", CENTRAL, two_layer=shipped.models["one-layer"].final) == set(CENTRAL)


def test_shuffled_targets_teach_nothing_of_it(shipped: LoadedCircuit, train_shuffled, failing):
    claims = [*CENTRAL, *NAME_LAYER_1]
    model = train_shuffled(shipped.task, steps=500, log_checkpoints=0, linear_checkpoints=1)
    assert failing("recall", claims, two_layer=model) == set(claims)


def test_two_layers_fail_as_the_control(shipped: LoadedCircuit):
    names = ["one-layer-guesses-of-eight", "one-layer-guesses-of-sixteen", "one-layer-closest-to-query-blind"]
    found = verify("recall", models={"one-layer": shipped.model}, only=names)
    assert {one.verdict for one in found} == {"not reproduced"}


def test_the_shipped_history_shows_the_rise(shipped: LoadedCircuit):
    run = shipped.models["two-layer"].run
    assert run is not None and run.steps == (290, 320, 1500)
    right = [measure("accuracy")(run.model(step), shipped.task, 1).mean().item() for step in run.steps]
    assert right[0] < 0.4 < right[1] < 0.9 < 0.99 < right[2]
