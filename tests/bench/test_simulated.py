"""The simulated curves are what they say they are."""

import numpy as np
import pytest

from mechinterp.bench.onset import _judged
from mechinterp.bench.simulated import GENERATORS, STEPS


@pytest.mark.parametrize("name", GENERATORS)
def test_curves_have_a_range_of_one_and_dates_in_order(name: str):
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = GENERATORS[name](rng)
        assert len(curve.values) == len(STEPS) == 78
        assert np.ptp(curve.values) == pytest.approx(0 if name == "flat" else 1, abs=0.1)
        assert list(curve.dates) == sorted(curve.dates)
        for date in curve.dates if curve.truth == "one" else ():
            assert 15 < date < 1000


def test_a_narrow_logistic_is_one_and_a_line_gradual():
    rng = np.random.default_rng(1)
    truths = {GENERATORS["logistic"](rng).truth for _ in range(40)}
    assert truths == {"one", "between", "gradual"}
    assert {GENERATORS["line"](rng).truth for _ in range(5)} == {"gradual"}


def test_noise_has_the_size_and_correlation_asked_for():
    flat, rng = GENERATORS["flat"](np.random.default_rng(0)), np.random.default_rng(2)
    draws = np.array([flat.noisy(0.05, 0.8, rng) for _ in range(400)])
    assert draws.std() == pytest.approx(0.05, rel=0.05)
    assert draws[:, 0].std() == pytest.approx(0.05, rel=0.1)
    assert np.corrcoef(draws[:, 30], draws[:, 31])[0, 1] == pytest.approx(0.8, abs=0.06)


def test_a_bar_is_missed_only_where_chance_does_not_explain_it():
    assert _judged("called", 2, 100, 0, 0.02) == ["called well"]
    assert _judged("called", 4, 100, 0, 0.02) == ["called not met, within chance"]
    assert _judged("called", 12, 100, 0, 0.02) == ["called missed"]
    assert _judged("coverage", 99, 100, 0.92, 0.98) == ["coverage not met, within chance"]
