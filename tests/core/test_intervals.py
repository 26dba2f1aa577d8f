"""Intervals of means over examples: coverage where the mean is known, and what few examples cannot tell."""

import numpy as np
import pytest

from mechinterp.core.statistics import Interval, Kind, gap_between, mean_interval, skewed_interval, t_interval

DRAWS = 1000
ACCURACY, LOSS, ATTENTION = Kind("proportion"), Kind("heavy-tailed", failure=2.0), Kind("bounded")


def shares(rng: np.random.Generator, size: int, rate: float, positions: int, spread: float) -> np.ndarray:
    """Shares of right answers; the rate differs from example to example, by a beta distribution."""
    rates = rng.beta(rate / spread, (1 - rate) / spread, size)
    return rng.binomial(positions, rates) / positions


def losses(rng: np.random.Generator, size: int, rate: float) -> np.ndarray:
    """Mostly a thousandth, and now and then what a wrong answer costs: mean .001 + 2 rate."""
    return rng.exponential(0.001, size) + (rng.random(size) < rate) * rng.exponential(2.0, size)


def covered(kind: Kind, draw, truth: float, draws: int = DRAWS) -> tuple[float, float, float]:
    """Share that hold the truth, median width over that of the true distribution of means, share resolved."""
    rng = np.random.default_rng(0)
    found = [kind.interval(draw(rng)) for _ in range(draws)]
    true = np.ptp(np.quantile([one.value for one in found], [0.025, 0.975]))
    width = float(np.median([one.high - one.low for one in found]) / true)
    hits = [one.low <= truth <= one.high for one in found]
    return float(np.mean(hits)), width, float(np.mean([one.resolved for one in found]))


@pytest.mark.parametrize(
    ("rate", "positions", "spread", "size"),
    [(0.99, 1, 1.0, 1024), (0.999, 16, 0.05, 1024), (0.9, 8, 0.3, 64), (0.5, 1, 1.0, 64), (0.02, 1, 1.0, 512)],
)
def test_intervals_of_accuracy_cover(rate: float, positions: int, spread: float, size: int):
    found, width, resolved = covered(ACCURACY, lambda rng: shares(rng, size, rate, positions, spread), rate)
    assert 0.93 <= found <= 0.985 and width <= 1.5 and resolved > 0.9


def test_accuracy_near_one_from_few_examples_is_a_bound():
    """Student's interval has no width in most of these draws, and misses the truth in most."""
    draw = lambda rng: shares(rng, 128, 0.999, 1, 1.0)  # noqa: E731
    found, _, resolved = covered(ACCURACY, draw, 0.999)
    assert found >= 0.95 and resolved < 0.01
    rng = np.random.default_rng(0)
    ends = [t_interval(draw(rng)) for _ in range(DRAWS)]
    assert np.mean([low <= 0.999 <= high for low, high in ends]) < 0.3
    perfect = ACCURACY.interval(np.ones(128))
    assert (perfect.value, perfect.high) == (1, 1) and 0.96 < perfect.low < 0.98
    assert not perfect.resolved and perfect.reason == "not resolved by 128 examples"
    none = ACCURACY.interval(np.zeros(128))
    assert none.ends == pytest.approx((0, 1 - perfect.low))


@pytest.mark.parametrize(("rate", "size"), [(0.02, 4096), (0.1, 1024), (0.01, 8192)])
def test_intervals_of_losses_near_zero_cover(rate: float, size: int):
    found, width, resolved = covered(LOSS, lambda rng: losses(rng, size, rate), 0.001 + 2 * rate)
    assert 0.93 <= found <= 0.985 and width <= 1.5 and resolved > 0.9


def test_a_loss_whose_failures_few_examples_show_is_a_bound():
    found, _, resolved = covered(LOSS, lambda rng: losses(rng, 128, 0.005), 0.011)
    assert found >= 0.95 and resolved < 0.05  # Student's: 47%
    unseen = LOSS.interval(np.full(100, 0.001) + np.linspace(0, 1e-4, 100))
    assert not unseen.resolved and unseen.low == 0 and unseen.high == pytest.approx(0.001 + 3 * 2 / 100, abs=2e-4)


def test_skewed_interval_is_students_for_symmetric_values_and_better_for_skewed_ones():
    assert skewed_interval(np.array([1.0, 2.0, 3.0])).ends == pytest.approx(t_interval(np.array([1.0, 2.0, 3.0])))
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(DRAWS):
        values = rng.normal(size=64) ** 2 * rng.normal(size=64) ** 2
        hits += [one.low <= 1 <= one.high for one in (mean_interval(values), skewed_interval(values))]
    assert hits[0] / DRAWS < 0.9 and hits[1] / DRAWS >= 0.92


def test_the_gap_of_squared_errors_covers():
    """Errors as heavy-tailed as those of regression without noise; 256 of them are 28 in effect."""
    rng, hits = np.random.default_rng(0), np.zeros(2)
    for _ in range(DRAWS):
        better, worse = (rng.normal(size=256) ** 2 * scale * rng.normal(size=256) ** 2 for scale in (1, 4))
        gap, plain = gap_between(-better, -worse), mean_interval(worse - better)
        hits += [gap.low <= 3 <= gap.high, plain.low <= 3 <= plain.high]
    assert hits[0] / DRAWS >= 0.93 > hits[1] / DRAWS


def test_attention_at_its_bound():
    equal = ATTENTION.interval(np.full(64, 0.9))
    assert not equal.resolved and equal.ends == pytest.approx((0.9 - 3 / 64, 1))
    lost = ATTENTION.interval(np.array([1.0] * 62 + [0.4, 0.2]))
    assert not lost.resolved and lost.high == 1 and lost.low < 0.95
    assert ATTENTION.interval(np.linspace(0.2, 0.6, 64)).ends == skewed_interval(np.linspace(0.2, 0.6, 64)).ends


def test_a_difference_of_numbers_without_spread_has_one():
    """Two models that answer every example right differ by nothing that these examples show: not by exactly 0."""
    both = ACCURACY.interval(np.ones(100))
    assert both.minus(both).value == 0
    assert both.minus(both).ends == pytest.approx((both.low - 1, 1 - both.low))
    assert Interval.exact(2.0).minus(Interval.exact(1.0)).ends == (1, 1)


def test_the_kind_is_read_from_what_a_measure_declares():
    assert Kind.of({"kind": "heavy-tailed", "failure": 0.5}) == Kind("heavy-tailed", 0.5)
    assert Kind.of({}) == Kind() and Kind().interval(np.array([1.0, 2.0])).ends == t_interval(np.array([1.0, 2.0]))
    assert np.isnan(ACCURACY.interval(np.array([np.nan])).value)
