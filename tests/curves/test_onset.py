"""Onset on curves whose truth is known: transitions are dated, and what is none is not called one."""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError, ShapeError
from mechinterp.curves import onset

STEPS = np.unique(np.concatenate([[0], np.round(np.geomspace(1, 1200, 22)), np.linspace(0, 1200, 25)])).astype(int)
TIME = STEPS.astype(float)


def series(values: np.ndarray, steps: np.ndarray = STEPS) -> xr.DataArray:
    return xr.DataArray(values, dims="step", coords={"step": steps})


def sigmoid(t0: float, width: float, low: float = 0.02, high: float = 0.9) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return low + (high - low) * 0.5 * (1 + np.tanh((np.log(TIME) - np.log(t0)) / width / 2))


def test_exact_logistic_is_recovered():
    found = onset(series(sigmoid(237.0, 0.11)))
    assert found.found and found.reason == ""
    assert found.step == pytest.approx(237, rel=1e-4)
    assert found.width == pytest.approx(0.11, rel=1e-3)
    assert (found.before, found.after) == pytest.approx((0.02, 0.9), abs=1e-4)
    assert found.untrained == pytest.approx(0.02) and found.jump == pytest.approx(0.88, abs=1e-3)
    # Noise of a thousandth of the range is assumed even where there is none.
    assert 237 * 0.997 < found.low < 237 < found.high < 237 * 1.003
    assert np.allclose(found.curve(STEPS), sigmoid(237.0, 0.11), atol=1e-4)


def test_a_falling_measure_has_an_onset_too():
    found = onset(series(sigmoid(150.0, 0.1, 4.0, 0.5)))
    assert found.found and found.step == pytest.approx(150, rel=1e-3) and found.jump == pytest.approx(-3.5, rel=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered, transitions = 0, 0
    for noise in np.repeat([0.01, 0.05, 0.1], 20):
        t0, width = np.exp(rng.uniform(np.log(30), np.log(700))), rng.uniform(0.03, 0.15)
        found = onset(series(sigmoid(t0, width) + rng.normal(0, noise, len(STEPS))))
        covered += found.low <= t0 <= found.high
        transitions += found.found
    # 95% of 60 is 57; fewer than 51 has probability 0.005 at the stated level.
    assert covered >= 51
    # 95% of these widths are to be found; fewer than 53 of 60 has probability 0.01 at that rate.
    assert transitions >= 53


def relaxation(rng: np.random.Generator) -> np.ndarray:
    return 0.05 + 0.85 * (1 - np.exp(-TIME / np.exp(rng.uniform(np.log(5), np.log(2000)))))


CALM = {
    "flat": lambda rng: np.full(len(TIME), 0.1),
    "exponential": relaxation,
    "line": lambda rng: 0.05 + 0.85 * TIME / 1200,
    "power": lambda rng: 0.05 + 0.85 * (TIME / 1200) ** rng.uniform(0.1, 2),
    "logarithm": lambda rng: 0.05 + 0.12 * np.log1p(TIME),
    "decay": lambda rng: 4 * (1 + TIME) ** -rng.uniform(0.1, 1),
}


def calls(noise: float, kinds: list[str], rng: np.random.Generator, curves: int = 4) -> int:
    """How many smooth curves with noise are called a transition."""
    values = [CALM[kind](rng) + rng.normal(0, noise, len(STEPS)) for kind in kinds for _ in range(curves)]
    return sum(onset(series(each)).found for each in values)


@pytest.mark.parametrize("kind", CALM)
def test_smooth_curves_with_noise_are_no_transition(kind: str):
    rng = np.random.default_rng(2)
    assert calls(0.005, [kind], rng) + calls(0.05, [kind], rng) == 0


def test_strong_noise_is_seldom_called_a_transition():
    # At most 2% may be: of 72 more than 4 has a probability of .015 at that rate.
    assert calls(0.2, list(CALM), np.random.default_rng(2), 12) <= 4


@pytest.mark.parametrize("kind", sorted(set(CALM) - {"flat"}))
def test_smooth_curves_without_noise_are_no_transition(kind: str):
    assert not onset(series(CALM[kind](np.random.default_rng(3)))).found


def test_exponential_is_the_rival_that_counts():
    values = series(relaxation(np.random.default_rng(0)) + np.random.default_rng(4).normal(0, 0.02, len(STEPS)))
    found = onset(values, max_width=10.0)  # even if any width were allowed
    assert not found.found and "exponential relaxation" in found.reason
    assert found.criteria["exponential"] < found.criteria["line"] - 10


def test_each_condition_alone_forbids_a_transition():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.01, len(STEPS))
    assert "gradual: width" in onset(series(sigmoid(200, 0.5) + noise)).reason
    assert "less than 0.1" in onset(series(sigmoid(200, 0.1, 0.02, 0.09) + noise)).reason
    assert onset(series(sigmoid(200, 0.1, 0.02, 0.09) + noise / 10), min_jump=0.05).found
    assert "lie after the change" in onset(series(np.where(TIME > 1120, 0.9, 0.1) + noise)).reason
    assert onset(series(np.where(TIME > 1120, 0.9, 0.1) + noise), min_side=2).found


def test_a_change_between_two_checkpoints_has_no_better_date_than_those():
    found = onset(series(np.where(TIME > 260, 0.9, 0.1) + np.random.default_rng(6).normal(0, 0.01, len(STEPS))))
    assert found.found
    assert found.low == pytest.approx(250, rel=0.03) and found.high == pytest.approx(300, rel=0.03)


def test_step_zero_is_the_untrained_value_and_no_part_of_the_fit():
    values = sigmoid(200, 0.1)
    values[0] = 0.85
    found = onset(series(values))
    assert found.step == pytest.approx(200, rel=1e-3) and found.checkpoints == len(STEPS) - 1
    assert found.untrained == 0.85 and not found.found and "changed by 0.05" in found.reason
    without = onset(series(sigmoid(200, 0.1)[1:], STEPS[1:]))
    assert without.found and without.untrained == pytest.approx(0.02)


def test_missing_values_are_left_out():
    values = sigmoid(200, 0.1)
    values[[3, 20, 30]] = [np.nan, np.inf, np.nan]
    found = onset(series(values))
    assert found.checkpoints == len(STEPS) - 4 and found.step == pytest.approx(200, rel=1e-3)


def test_short_constant_and_empty_series_say_so():
    assert "5 finite values after step 0; fewer than 8" in onset(series(sigmoid(200, 0.1)[:6], STEPS[:6])).reason
    assert onset(series(np.full(len(STEPS), 0.3))).reason == "the series is constant"
    assert onset(series(np.full(len(STEPS), np.nan))).checkpoints == 0
    assert str(onset(series(np.full(len(STEPS), 0.3)))) == "no transition: the series is constant"


def test_result_reads_as_a_sentence():
    assert str(onset(series(sigmoid(237.0, 0.11)))).startswith("transition at step 237 (95% interval 2")


def test_errors_say_what_to_do():
    two = xr.DataArray(np.zeros((3, 2)), dims=["step", "head"], coords={"step": [0, 1, 2]})
    with pytest.raises(ShapeError, match=r"select one entry of \['head'\]"):
        onset(two)
    with pytest.raises(ConfigError, match="increase from checkpoint"):
        onset(series(np.zeros(3), np.array([0, 2, 2])))
    with pytest.raises(ConfigError, match="max_width must be positive"):
        onset(series(TIME), max_width=0)
    with pytest.raises(ConfigError, match="confidence=95"):
        onset(series(TIME), confidence=95)
