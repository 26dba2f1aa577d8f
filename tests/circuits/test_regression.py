"""Linear regression under its claims, a model written by hand that must meet them, and models that must not."""

import pytest
import torch

from mechinterp.claims import ClaimResult, LoadedCircuit, load_circuit, verify
from mechinterp.known.regression import gradient_step_model

# What one gradient step is, by weights, predictions, errors and interventions.
CENTRAL = (
    "error-of-one-step",
    "matrix-is-the-identity",
    "best-rate",
    "same-predictions",
    "nearest-is-one-step",
    "theory-with-noise",
    "values-read-the-answers",
    "queries-read-the-query",
    "keys-are-needed",
)
# Those that look into the weights of linear attention.
OF_WEIGHTS = ("matrix-is-the-identity", "best-rate", "same-predictions", "theory-with-noise")
NOT_TESTABLE = {"merged-keys-and-queries", "more-layers-more-steps"}


@pytest.fixture(scope="module")
def shipped() -> LoadedCircuit:
    return load_circuit("regression")


@pytest.fixture(scope="module")
def found() -> dict[str, ClaimResult]:
    return {one.claim: one for one in verify("regression")}


def test_every_claim_comes_out_as_stated(found: dict[str, ClaimResult]):
    assert [name for name, one in found.items() if one.failed] == []
    assert {name for name, one in found.items() if one.verdict.startswith("not testable")} == NOT_TESTABLE
    assert {one.verdict for name, one in found.items() if name not in NOT_TESTABLE} == {"reproduced"}
    assert len(found) == 22  # and two about training, for models trained anew


def test_theory_is_met_closely(found: dict[str, ClaimResult]):
    error = found["error-of-one-step"]
    assert error.low is not None and error.high is not None and 0.97 < error.low < 1 < error.high < 1.03
    assert found["theory-on-other-lengths"].measured == pytest.approx(1, abs=0.03)
    # At twice the rate: (1 - 2 r + r^2 (1 + 6 / 20)) / (1 - 1 / 1.3) with r = 1.25.
    assert found["rate-does-not-adapt"].measured == pytest.approx((1 - 2.5 + 1.25**2 * 1.3) / (0.3 / 1.3), rel=0.05)


def test_the_step_written_by_hand_meets_the_claims():
    """An equality with theory, so nothing but sampling is between them. (It reads 10 pairs only.)"""
    made = gradient_step_model(dtype=torch.float32, seed=2)
    asked = [*CENTRAL, "theory-on-larger-inputs", "keys-do-not-read-the-answers", "nothing-past-the-head"]
    asked += ["softmax-is-worse"]
    results = {one.claim: one for one in verify("regression", models={"linear": made.model}, only=asked)}
    assert {one.verdict for one in results.values()} == {"reproduced"} and len(results) == len(asked)
    for name in ("matrix-is-the-identity", "best-rate", "same-predictions"):
        assert results[name].measured == pytest.approx(1, abs=1e-5)


def test_a_step_at_another_rate_fails_what_is_about_the_rate(failing):
    made = gradient_step_model(rate=0.8, dtype=torch.float32)
    # Predictions of the same direction, and wires of the same use.
    assert failing("regression", CENTRAL, linear=made.model) == {"error-of-one-step", "best-rate"}


def test_a_model_of_twenty_pairs_fails_on_ten(shipped: LoadedCircuit, failing):
    other = shipped.models["twenty-pairs"].final
    assert failing("regression", ("error-of-one-step", "best-rate"), linear=other) == {"error-of-one-step", "best-rate"}
    assert failing("regression", ("rate-does-not-adapt",), linear=other) == {"rate-does-not-adapt"}


def test_an_untrained_model_fails(shipped: LoadedCircuit, failing):
    assert failing("regression", CENTRAL, linear=shipped.models["linear"].untrained) == set(CENTRAL)


def test_softmax_attention_fails(shipped: LoadedCircuit, failing):
    # It is far from one step, yet farther from everything else that is compared.
    asked = ("error-of-one-step", "softmax-is-worse")  # what is claimed of the matrix cannot be asked
    assert failing("regression", asked, linear=shipped.models["softmax"].final) == set(asked)


def test_shuffled_targets_teach_to_say_nothing(shipped: LoadedCircuit, train_shuffled, failing):
    model = train_shuffled(shipped.task, steps=300, log_checkpoints=0, linear_checkpoints=1)
    # Nearly no prediction is what theory expects of nearly no step.
    others = {"theory-with-noise"}
    assert failing("regression", CENTRAL, linear=model) == set(CENTRAL) - others
