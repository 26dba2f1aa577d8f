import numpy as np
import pytest
from sklearn.metrics import r2_score

from mechinterp.probes.linear import Rows, accuracy_interval, constant_score, probe_score, r2_interval


def test_independent_answers_give_the_binomial_interval():
    rng = np.random.default_rng(0)
    right = rng.random(4000) < 0.8
    score = accuracy_interval(right, np.arange(4000))
    half = 1.96 * np.sqrt(0.16 / 4000)
    assert score.value == right.mean()
    assert score.high - score.low == pytest.approx(2 * half, rel=0.05)


def test_a_sequence_counts_once_when_its_positions_agree():
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.8
    once = accuracy_interval(right, np.arange(100))
    often = accuracy_interval(right.repeat(40), np.arange(100).repeat(40))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-3)


def test_the_interval_covers_with_clustered_answers():
    rng, hit = np.random.default_rng(0), 0
    for _ in range(400):
        share = rng.beta(8, 2, size=30).repeat(20)  # mean 0.8, different from sequence to sequence
        score = accuracy_interval(rng.random(600) < share, np.arange(30).repeat(20))
        hit += score.low <= 0.8 <= score.high
    assert 0.92 <= hit / 400 <= 0.98


def test_all_right_is_not_certainty():
    score = accuracy_interval(np.ones(500, dtype=bool), np.arange(50).repeat(10))
    assert score.value == score.high == 1.0
    assert 0.9 < score.low < 0.95  # fifty sequences, not five hundred positions


def test_r2_is_the_usual_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 2))
    guess = truth + 0.5 * rng.normal(size=(300, 2))
    score = r2_interval(guess, truth, np.arange(300))
    assert score.value == pytest.approx(r2_score(truth, guess, multioutput="variance_weighted"), abs=0.002)
    assert score.low < 0.75 < score.high and score.high - score.low < 0.12


def test_probe_and_constant_by_hand():
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 1, 1] * 50)
    x = np.stack([y + 0.01 * rng.normal(size=200), np.full(200, 7.0)], 1)  # one feature is constant
    rows = Rows(x, y, np.arange(200))
    assert probe_score(rows, rows).value == 1.0
    assert constant_score(rows, rows) == 0.75
    values = Rows(x, 3.0 * y[:, None] + 2, np.arange(200))
    assert probe_score(values, values).value > 0.99
    assert constant_score(values, values) == 0.0
