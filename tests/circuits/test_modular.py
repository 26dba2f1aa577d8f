"""Grokking modular addition under its claims, and models under which these must fail."""

import pytest

from mechinterp.claims import ClaimResult, LoadedCircuit, load_circuit, verify
from mechinterp.measures import measure

# Adding, and how: frequencies in logits, neurons and embeddings.
CENTRAL = (
    "generalises",
    "key-frequencies",
    "few-key-frequencies",
    "decay-makes-the-frequencies",
    "restricted-loss",
    "embedding-restricted",
    "neurons-of-one-frequency",
)


@pytest.fixture(scope="module")
def shipped() -> LoadedCircuit:
    return load_circuit("modular")


@pytest.fixture(scope="module")
def found() -> dict[str, ClaimResult]:
    return {one.claim: one for one in verify("modular")}


def test_every_claim_comes_out_as_stated(found: dict[str, ClaimResult]):
    assert [name for name, one in found.items() if one.failed] == []
    assert {name for name, one in found.items() if one.verdict != "reproduced"} == {"phases-at-p-113"}
    assert len(found) == 26  # and three about training, for models trained anew


def test_its_numbers_are_near_the_published_ones(found: dict[str, ClaimResult]):
    for name, within in (("key-frequencies", 0.05), ("neurons-of-one-frequency", 0.05)):
        assert found[name].measured == pytest.approx(found[name].published, abs=within), name


def test_an_untrained_model_fails(shipped: LoadedCircuit, failing):
    assert failing("modular", CENTRAL, grokking=shipped.models["grokking"].untrained) == set(CENTRAL)


def test_a_model_that_memorised_fails(shipped: LoadedCircuit, failing):
    """All that it lacks is weight decay. It has a frequency just over the threshold, which is few."""
    memoriser = shipped.models["no-decay"].final
    assert failing("modular", CENTRAL, grokking=memoriser) == {
        name for name in CENTRAL if name != "few-key-frequencies"
    }
    assert failing("modular", ("no-decay-memorises",), no_decay=memoriser) == set()


def test_a_model_that_adds_fails_as_the_control(shipped: LoadedCircuit, failing):
    asked = ("no-decay-does-not-generalise", "memorised-frequencies", "memoriser-restricted", "memoriser-embedding")
    assert failing("modular", asked, no_decay=shipped.model) == set(asked)
    assert failing("modular", ("memorising-neurons",), no_decay=shipped.model) == {"memorising-neurons"}


def test_wrong_answers_are_memorised_and_teach_no_adding(shipped: LoadedCircuit, train_shuffled, failing):
    """With 70% of the sums, for as many steps as teach a rightly labelled model what is central."""
    like = shipped.models["more-data"]
    assert failing("modular", CENTRAL, grokking=like.final) <= {"neurons-of-one-frequency"}
    model = train_shuffled(like.task, steps=600, log_checkpoints=0, linear_checkpoints=1)
    assert failing("modular", CENTRAL, grokking=model) == set(CENTRAL)


def test_the_shipped_history_shows_the_circuit_before_its_effect(shipped: LoadedCircuit):
    run = shipped.models["grokking"].run
    assert run is not None and run.steps == (150, 1000, 2000)
    keys = [2, 21, 24]
    losses = [measure("progress_losses", frequencies=keys)(run.model(step), shipped.task) for step in run.steps]
    test = [loss.sel(group="test") for loss in losses]
    full, restricted = ([float(loss.sel(logits=name)) for loss in test] for name in ("full", "restricted"))
    assert full[0] > 10 and full[1] > 9 and full[2] < 0.01
    assert 3 < restricted[0] < 4 and 0.5 < restricted[1] < 1 and restricted[2] < 0.01
    assert [float(loss.sel(logits="full", group="train")) < 0.1 for loss in losses] == [True] * 3
