"""Stages, transients, rests before a rise, and noise that wanders: what a single sigmoid is fooled by."""

import json

import numpy as np
import pytest
import xarray as xr

from mechinterp.curves import Onset, onset
from mechinterp.curves.evidence import NOISE_CORRELATIONS, grams, whiten
from mechinterp.curves.shapes import CODES, shapes, width
from mechinterp.training.schedules import checkpoint_steps

STEPS = np.array(checkpoint_steps(1200, 20, 60), dtype=float)
LOG = np.log(STEPS[1:])


def sigmoid(date: float, w: float = 0.1) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 0.5 * (1 + np.tanh((np.log(STEPS) - np.log(date)) / w / 2))


def noise(seed: int, size: float, correlation: float) -> np.ndarray:
    fresh = np.random.default_rng(seed).normal(0, size, len(STEPS))
    wander = [fresh[0]]
    for one in fresh[1:]:
        wander.append(correlation * wander[-1] + (1 - correlation**2) ** 0.5 * one)
    return np.array(wander)


def dated(values: np.ndarray, **limits: float) -> Onset:
    return onset(xr.DataArray(values, dims="step", coords={"step": STEPS}), **limits)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_a_staircase_is_two_stages_and_its_main_one_is_the_larger(correlation: float):
    found = dated(0.25 * sigmoid(60) + 0.75 * sigmoid(300) + noise(1, 0.02, correlation))
    assert found.shape == "two stages" and len(found.transitions) == 2
    first, second = found.transitions
    assert first.low <= 60 <= first.high and second.low <= 300 <= second.high
    assert (first.change, second.change) == (pytest.approx(0.25, abs=0.05), pytest.approx(0.75, abs=0.05))
    assert (found.step, found.low, found.high) == (second.step, second.low, second.high)
    assert str(found).startswith("two stages: +0.2")


def test_of_two_equal_stages_the_first_is_the_main_one():
    found = dated(0.5 * sigmoid(60) + 0.5 * sigmoid(300) + noise(2, 0.02, 0.5))
    assert found.shape == "two stages" and found.step == found.transitions[0].step
    assert found.step == pytest.approx(60, rel=0.1)


def test_a_rise_that_falls_back_is_transient_with_both_dates():
    found = dated(sigmoid(60) - 0.9 * sigmoid(300) + noise(3, 0.02, 0.5))
    assert found.found and found.shape == "transient" and found.lost is not None
    assert found.low <= 60 <= found.high and found.lost.low <= 300 <= found.lost.high
    assert found.words == f"transient from step {found.step:.0f} to {found.lost.step:.0f}"
    assert abs(found.jump) < 0.2  # what is left at the end does not decide


def test_a_drop_after_an_early_decay_is_dated():
    found = dated(4 - 1 * (1 - np.exp(-STEPS / 4)) - 3 * sigmoid(250) + noise(4, 0.05, 0.5), min_jump=0.5)
    assert found.found and found.low <= 250 <= found.high
    assert found.after - found.before == pytest.approx(-3, abs=0.2)
    assert not found.stages[0].sudden and found.stages[0].change == pytest.approx(-0.9, abs=0.3)


@pytest.mark.parametrize("delay", [20.0, 50.0])
def test_a_line_after_a_rest_is_gradual_and_still_rising(delay: float):
    found = dated(np.maximum(STEPS - delay, 0) / (1200 - delay) + noise(5, 0.02, 0.5))
    assert not found.found and found.shape == "gradual" and found.moving == "rising"
    assert found.words == "gradual, still rising at the end"


@pytest.mark.parametrize("seed", range(4))
def test_a_long_relaxation_after_a_rest_is_gradual(seed: int):
    values = 1 - np.exp(-np.maximum(STEPS - 40, 0) / 160)
    found = dated(values + noise(seed, 0.02, 0.5))
    assert not found.found and found.shape == "gradual" and found.moving == ""
    assert found.criteria["delayed exponential"] < found.criteria["logistic"] - 4


def test_a_short_relaxation_after_a_rest_is_a_transition_by_its_width():
    found = dated(1 - np.exp(-np.maximum(STEPS - 200, 0) / 40) + noise(6, 0.02, 0.5))
    assert found.found and found.width == pytest.approx(
        np.log((200 + 2.303 * 40) / (200 + 0.105 * 40)) / 4.394, abs=0.04
    )
    assert found.low <= 200 + 40 * np.log(2) <= found.high


def test_noise_that_wanders_is_no_transition_and_its_correlation_is_estimated():
    results = [dated(noise(seed, 0.05, 0.8)) for seed in range(30)]
    # 5% of 30 is 1.5; more than 4 has a probability of .016 at that rate.
    assert sum(found.found for found in results) <= 4
    assert np.mean([found.correlation for found in results]) == pytest.approx(0.8, abs=0.1)
    assert {found.shape for found in results} <= {"none", "gradual", "one transition"}


def test_a_result_survives_json():
    found = dated(sigmoid(60) - 0.9 * sigmoid(300) + noise(3, 0.02, 0.5))
    again = Onset.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found and again.lost == found.lost
    assert np.allclose(again.curve(STEPS), sigmoid(60) - 0.9 * sigmoid(300), atol=0.1)


def test_whitened_products_are_those_of_the_correlation_matrix():
    rows = np.random.default_rng(0).normal(size=(3, 9))
    both = grams(rows, NOISE_CORRELATIONS)
    for place, correlation in enumerate(NOISE_CORRELATIONS):
        matrix = correlation ** np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
        true = (1 - correlation**2) * rows @ np.linalg.inv(matrix) @ rows.T
        white = whiten(rows, float(correlation))
        assert np.allclose(both[place], true) and np.allclose(white @ white.T, true)


def test_widths_are_those_of_a_logistic_with_the_same_times():
    def of(name: str, one: float, two: float = 0.0) -> float:
        return float(width(LOG, np.array([CODES[name]]), np.array([[one, two]]))[0])

    assert of("logistic", np.log(100), np.log(0.1)) == pytest.approx(0.1)
    assert of("exponential", np.log(200)) == pytest.approx(np.log(np.log(10) / np.log(10 / 9)) / 4.394, rel=0.02)
    late = np.log((100 + 0.9 * 1100) / (100 + 0.1 * 1100)) / 4.394
    assert of("delayed line", np.log(100)) == pytest.approx(late, rel=1e-3)
    assert of("delayed exponential", np.log(100), np.log(30)) == pytest.approx(late, rel=0.05)
    rise = shapes(LOG, np.array([CODES["power"]]), np.array([[0.5, 0.0]]))[0]
    assert np.allclose(rise, (STEPS[1:] ** 0.5 - 1) / (1200**0.5 - 1))
