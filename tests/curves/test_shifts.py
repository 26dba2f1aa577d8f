"""Shifts of dates over pairs: known answers, censored members, and coverage."""

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechinterp.core import ConfigError
from mechinterp.curves import paired_shift

NAN = float("nan")


def dates(step: list[float], clear: list[float] | None = None) -> xr.Dataset:
    clear = [value - 1 for value in step] if clear is None else clear
    return xr.Dataset({"step": ("pair", np.array(step)), "clear": ("pair", np.array(clear))})


def test_complete_pairs_give_the_t_interval_of_the_logarithms():
    plain, changed = [100.0, 200.0, 400.0, 300.0], [60.0, 90.0, 260.0, 120.0]
    shift = paired_shift(dates(plain), dates(changed))
    logs = np.log(np.array(changed) / plain)
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    assert shift.ratio == pytest.approx(np.exp(logs.mean()))
    assert (shift.low, shift.high) == pytest.approx(tuple(np.exp(logs.mean() + np.array([-half, half]))))
    assert (shift.least, shift.most) == pytest.approx((shift.ratio, shift.ratio))
    assert (shift.complete, shift.pairs, shift.test.wins, shift.test.p) == (4, 4, 4, 0.125)


def test_a_censored_member_bounds_the_mean_and_enters_the_sign_test():
    """Plain never in the second pair: changed at 50 is earlier. Changed never in the third, watched to 500: later."""
    shift = paired_shift(dates([100, NAN, 200], [99, 500, 199]), dates([50, 50, NAN], [49, 49, 500]))
    assert (shift.complete, shift.test.wins, shift.test.losses, shift.test.ties) == (1, 2, 1, 0)
    assert shift.ratio == pytest.approx(0.5) and (shift.low, shift.high) == (0, math.inf)
    assert (shift.least, shift.most) == (0, math.inf)
    assert shift.bounds.sel(end="most").values[:2] == pytest.approx(np.log([0.5, 50 / 501]))
    assert shift.bounds.sel(end="least").values[2] == pytest.approx(math.log(501 / 200))
    never = paired_shift(dates([100, 200]), dates([NAN, NAN], [800, 400]))
    assert (
        math.isnan(never.ratio) and never.least == pytest.approx(math.sqrt(8.01 * 401 / 200)) and never.most == math.inf
    )
    assert str(never).startswith("no pair of 2 in which both came; over all pairs x4.01 or more; earlier in 0 seeds")


def test_what_is_not_certain_has_no_order():
    """Changed is censored at 150, before plain came at 200; both censored; both at one checkpoint."""
    shift = paired_shift(dates([200, NAN, 70], [190, 300, 60]), dates([NAN, NAN, 70], [150, 300, 60]))
    assert (shift.test.wins, shift.test.losses, shift.test.ties, shift.test.p) == (0, 0, 3, 1)


def test_a_declared_direction_is_one_sided():
    five = [100.0] * 5
    assert paired_shift(dates(five), dates([50.0] * 5), "earlier").test.p == pytest.approx(1 / 32)
    later = paired_shift(dates(five), dates([150.0] * 5), "later").test
    assert (later.wins, later.losses, later.p) == (0, 5, pytest.approx(1 / 32))
    assert paired_shift(dates(five), dates([150.0] * 5), "earlier").test.p == 1


def test_equal_shifts_are_as_wide_as_the_checkpoints_leave_them():
    shift = paired_shift(dates([100, 100], [80, 80]), dates([100, 100], [80, 80]))
    assert shift.ratio == 1 and (shift.low, shift.high) == pytest.approx((0.81, 1 / 0.81))
    zero = paired_shift(dates([0, 0], [-1, -1]), dates([0, 1], [-1, 0]))
    assert zero.ratio == 1 and zero.test.ties == 2


def test_the_interval_covers():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        plain = np.exp(rng.normal(5.5, 0.3, 8))
        changed = plain * np.exp(rng.normal(-0.4, 0.2, 8))
        shift = paired_shift(dates(list(plain)), dates(list(changed)))
        inside += shift.low < math.exp(-0.4) < shift.high
    assert 930 <= inside <= 970


def test_unpaired_runs_are_refused():
    with pytest.raises(ConfigError, match="2 plain runs, 1 changed ones: pair them"):
        paired_shift(dates([1, 2]), dates([1]))
