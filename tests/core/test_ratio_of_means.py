import numpy as np
import pytest

from mechinterp.core.statistics import ratio_of_means


def test_fieller_interval_by_hand():
    """Numerator constant 1, denominator 9, 10, 11: the interval is 1 over the denominator's t-interval."""
    result = ratio_of_means(np.ones(3), np.array([9.0, 10.0, 11.0]))
    half = 4.302652729911275 / np.sqrt(3)
    assert result.value == pytest.approx(0.1)
    assert result.low == pytest.approx(1 / (10 + half))
    assert result.high == pytest.approx(1 / (10 - half))
    assert result.valid


def test_fieller_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        below = rng.normal(2.0, 2.0, size=40)
        above = 0.7 * below + rng.normal(0, 1.0, size=40)
        result = ratio_of_means(above, below)
        hits += result.low <= 0.7 <= result.high
    assert 0.92 <= hits / 500 <= 0.98


def test_a_gap_that_may_be_zero_gives_no_number():
    result = ratio_of_means(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.1, 1.0]))
    assert not result.valid
    assert np.isnan([result.value, result.low, result.high]).all()


def test_a_negative_gap_is_a_gap():
    result = ratio_of_means(np.array([-1.0, -2.0, -3.1, -2.0]), np.array([-2.0, -4.0, -6.0, -4.0]))
    assert result.valid and result.low <= result.value <= result.high
    assert result.value == pytest.approx(8.1 / 16)
