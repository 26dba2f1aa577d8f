"""First passages, orders, change points, mirages: known answers."""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.core.statistics import order_test
from mechinterp.curves import change_points, first_passage, leads, mirage_check, orders, which_first


def series(values: list[float], steps: list[int] | None = None) -> xr.DataArray:
    return xr.DataArray(
        np.array(values, float), dims="step", coords={"step": steps or [0, 10, 20, 40, 80, 160][: len(values)]}
    )


def test_first_passage_by_hand():
    found = first_passage(series([0.1, 0.1, 0.3, 0.4, 0.9, 1.0]), chance=0.1, best=1.1)
    assert found["step"].values.tolist() == [20, 40, 80]
    assert found["after"].values.tolist() == [10, 20, 40]
    assert not found["censored"].any() and found["clear"].values.tolist() == [10, 20, 40]


def test_a_falling_measure_passes_downwards():
    found = first_passage(series([4.0, 4.0, 3.5, 2.0, 0.5, 0.1]), chance=4.0, best=0.0, thresholds=(0.1, 0.5))
    assert found["step"].values.tolist() == [20, 40]


def test_a_dip_undoes_a_passage():
    dip = series([0.0, 0.6, 0.1, 0.7, 0.8, 0.9])
    assert float(first_passage(dip, 0.0, 1.0, thresholds=(0.5,))["step"][0]) == 40
    assert float(first_passage(dip, 0.0, 1.0, thresholds=(0.5,), hold=1, lasts=0)["step"][0]) == 10


def test_a_passage_must_last_however_dense_the_checkpoints():
    steps = [0, 1, 2, 3, 4, 8, 16, 17, 18, 19, 20, 40, 80]
    blip = series([0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], steps)  # steps 2 and 3: two checkpoints, 0.41 in ln t
    assert first_passage(blip, 0.0, 1.0)["censored"].all() and (first_passage(blip, 0.0, 1.0)["clear"] == 80).all()
    dense = series([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0], steps)  # four checkpoints, 0.17 in ln t
    assert first_passage(dense, 0.0, 1.0)["censored"].all()
    assert (first_passage(dense, 0.0, 1.0, lasts=0.1)["step"] == 16).all()
    with pytest.raises(ConfigError, match="lasts=-1"):
        first_passage(dense, 0.0, 1.0, lasts=-1)


def test_a_passage_that_is_lost_for_good_is_transient():
    steps = [0, 10, 20, 40, 80, 160, 320]
    lost = first_passage(series([0, 0, 1, 1, 0, 0, 0], steps), 0.0, 1.0)
    assert (lost["step"] == 20).all() and lost["transient"].all() and (lost["left"] == 80).all()
    stays = first_passage(series([0, 0, 1, 1, 0, 1, 1], steps), 0.0, 1.0)
    assert (stays["step"] == 20).all() and not stays["transient"].any()
    # Below at the last checkpoint only: whether for good, nothing says yet.
    assert not first_passage(series([0, 0, 1, 1, 1, 1, 0], steps), 0.0, 1.0)["transient"].any()


def test_only_at_the_last_checkpoint_is_censored_from_there():
    late = first_passage(series([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), 0.0, 1.0)
    assert late["censored"].all() and np.isnan(late["step"]).all() and (late["clear"] == 80).all()
    assert not first_passage(series([0.0] * 5 + [1.0]), 0.0, 1.0, hold=1, lasts=0)["censored"].any()


def test_an_order_against_a_run_that_was_not_watched_so_long_is_undecided():
    late = first_passage(series([0, 0, 0, 0, 1, 1], [0, 100, 300, 500, 900, 1800]), 0.0, 1.0)
    short = first_passage(series([0, 0, 0, 0], [0, 100, 300, 500]), 0.0, 1.0)
    long = first_passage(series([0, 0, 0, 0, 0, 0], [0, 100, 300, 500, 900, 1800]), 0.0, 1.0)
    assert which_first(late, short).order == "undecided" and which_first(short, late).order == "undecided"
    assert which_first(late, long).order == "first" and which_first(long, late).order == "second"
    assert order_test([which_first(late, short).order] * 5, alternative="less").p == 1.0  # .031 as "first"
    early = first_passage(series([0, 1, 1, 1, 1, 1], [0, 100, 300, 500, 900, 1800]), 0.0, 1.0)
    assert which_first(early, short).order == "first"
    bounds = leads(late, short)
    assert (bounds["least"] == 501 - 900).all() and np.isposinf(bounds["most"]).all()
    # Past at its last checkpoint, but not for long: it passed there or later, so the other was first.
    ends = first_passage(series([0, 0, 0, 0, 0, 1], [0, 100, 300, 500, 900, 1800]), 0.0, 1.0)
    assert which_first(late, ends).order == "first"


def test_orders_must_hold_at_every_threshold():
    slow = first_passage(series([0, 0, 0, 0.3, 0.6, 1.0]), 0.0, 1.0)
    fast = first_passage(series([0, 0.3, 0.3, 0.6, 0.9, 1.0]), 0.0, 1.0)
    crossing = first_passage(series([0, 0.12, 0.12, 0.12, 0.12, 0.9]), 0.0, 1.0)
    assert which_first(fast, slow).order == "first" and which_first(slow, fast).order == "second"
    assert which_first(slow, slow).order == "tie"
    assert which_first(crossing, slow).order == "mixed"
    assert str(which_first(fast, slow)) == "first (0.1: first, 0.25: first, 0.5: first)"
    never = first_passage(series([0.0] * 6), 0.0, 1.0)
    assert which_first(slow, never).order == "first" and which_first(never, never).order == "undecided"
    with pytest.raises(ConfigError, match="different thresholds"):
        which_first(slow, first_passage(series([0.0] * 6), 0.0, 1.0, thresholds=(0.1,)))


def test_leads_by_hand():
    slow = first_passage(series([0, 0, 0, 0.3, 0.6, 1.0]), 0.0, 1.0)
    fast = first_passage(series([0, 0.3, 0.3, 0.6, 0.9, 1.0]), 0.0, 1.0)
    never = first_passage(series([0.0] * 6), 0.0, 1.0)
    for sign, (one, two) in {1: (fast, slow), -1: (slow, fast)}.items():
        assert leads(one, two)["least"].values.tolist() == leads(one, two)["most"].values.tolist()
        assert leads(one, two)["least"].values.tolist() == [sign * 30, sign * 30, sign * 40]
    assert leads(fast, slow, relative=True)["least"].values.tolist() == [4, 4, 2]
    # A passage that was not seen comes after the last step, or never.
    assert (
        leads(fast, never)["least"].values.tolist() == [151, 151, 121] and np.isposinf(leads(fast, never)["most"]).all()
    )
    assert np.isneginf(leads(never, fast)["least"]).all() and leads(never, fast)["most"].values.tolist() == [
        -151,
        -151,
        -121,
    ]
    assert leads(never, fast, relative=True)["least"].values.tolist() == [0, 0, 0]
    assert leads(fast, never, relative=True)["least"].values.tolist() == [16.1, 16.1, 161 / 40]
    early = first_passage(series([0, 0.3, 0.3, 0.6, 0.9, 1.0]), 0.0, 1.0, thresholds=(0.2,))
    late = first_passage(series([0, 0.3, 0.3, 0.6, 0.9, 1.0]), 0.0, 1.0, thresholds=(0.8,))
    assert leads(early, late)["least"].values.tolist() == [70]
    with pytest.raises(ConfigError, match="different numbers of thresholds"):
        leads(early, slow)


def test_passage_refuses_an_empty_range_and_odd_thresholds():
    with pytest.raises(ConfigError, match="is empty"):
        first_passage(series([0.0, 1.0]), 0.5, 0.5)
    with pytest.raises(ConfigError, match="shares of the range"):
        first_passage(series([0.0, 1.0]), 0.0, 1.0, thresholds=(25,))


STEPS = np.unique(np.round(np.geomspace(1, 5000, 60))).astype(int)


def test_change_points_finds_two_levels_and_says_between_which_checkpoints():
    rng = np.random.default_rng(1)
    truth = np.where(STEPS < 100, 0.0, np.where(STEPS < 1000, 0.5, 0.9))
    line = xr.DataArray(truth + rng.normal(0, 0.05, len(STEPS)), dims="step", coords={"step": STEPS})
    found = change_points(line)
    assert len(found.steps) == 2
    assert found.after[0] < 100 <= found.steps[0] and found.after[1] < 1000 <= found.steps[1]
    assert found.levels == pytest.approx((0.0, 0.5, 0.9), abs=0.04)
    assert found.noise == pytest.approx(0.05, rel=0.4)
    assert change_points(line, count=2).steps == found.steps


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.95])
def test_change_points_are_rare_in_noise_that_wanders(correlation: float):
    rng = np.random.default_rng(1)
    flat = [len(change_points(log_spaced(wandering(rng, 53, correlation))).steps) > 0 for _ in range(100)]
    assert sum(flat) <= 6  # 94 of 100 at 0.8 while the noise was taken to be independent


@pytest.mark.parametrize(("correlation", "jump", "fewest"), [(0.0, 2.0, 90), (0.5, 4.0, 90), (0.8, 4.0, 90)])
def test_change_points_in_noise_that_wanders_are_found(correlation: float, jump: float, fewest: int):
    rng, step = np.random.default_rng(1), np.arange(53) >= 26
    found = [change_points(log_spaced(wandering(rng, 53, correlation) + jump * step)) for _ in range(100)]
    assert sum(len(one.steps) == 1 for one in found) >= fewest
    assert np.median([one.noise for one in found]) == pytest.approx(1, rel=0.25)
    if correlation == 0.8:
        assert 0.5 <= np.median([one.correlation for one in found]) <= 0.9


def test_no_change_points_without_change():
    flat = xr.DataArray(np.ones(len(STEPS)), dims="step", coords={"step": STEPS})
    assert change_points(flat).steps == () and str(change_points(flat)) == "no change point (level 1)"


def log_spaced(values: np.ndarray) -> xr.DataArray:
    return xr.DataArray(values, dims="step", coords={"step": np.exp(0.12 * np.arange(len(values)))})


def wandering(rng: np.random.Generator, size: int, correlation: float) -> np.ndarray:
    """Gaussian noise of variance one, autoregressive of order one."""
    noise = rng.normal(size=size)
    for i in range(1, size):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return noise


def test_change_points_thin_dense_late_checkpoints():
    steps = np.concatenate([[0, 1, 2, 4, 8, 16, 32, 64], np.arange(100, 1000, 5)])
    line = xr.DataArray(np.zeros(len(steps)), dims="step", coords={"step": steps})
    used = np.array(change_points(line).used)
    assert used[0] == 0 and (np.diff(np.log(used[1:])) >= 0.1 - 1e-9).all()
    with pytest.raises(ConfigError, match="need 40 checkpoints"):
        change_points(line[:8], count=19)


def test_accuracy_alone_can_be_a_mirage():
    steps = np.unique(np.round(np.geomspace(1, 2000, 50))).astype(int)
    smooth = np.log(steps / 200)  # a margin that grows slowly through zero
    sudden = 1 / (1 + np.exp(-smooth / 0.05))
    coords = {"step": steps}
    margin = xr.DataArray(smooth, dims="step", coords=coords)
    accuracy = xr.DataArray(sudden, dims="step", coords=coords)
    assert mirage_check({"accuracy": accuracy, "margin": margin}).verdict == "mirage"
    assert mirage_check({"accuracy": accuracy, "margin": 4 * accuracy}).verdict == "transition"
    assert mirage_check({"accuracy": accuracy, "loss": 4 * accuracy, "margin": margin}).verdict == "mixed"
    assert mirage_check({"accuracy": margin, "margin": margin}).verdict == "no transition"
    assert mirage_check({"accuracy": accuracy, "margin": accuracy}, min_jump={"margin": 2.0}).verdict == "mirage"
    with pytest.raises(ConfigError, match="continuous yardstick"):
        mirage_check({"accuracy": accuracy})


def test_orderings_count_in_the_sign_test():
    slow = first_passage(series([0, 0, 0, 0.3, 0.6, 1.0]), 0.0, 1.0)
    fast = first_passage(series([0, 0.3, 0.3, 0.6, 0.9, 1.0]), 0.0, 1.0)
    found = order_test(
        [one.order for one in [which_first(fast, slow)] * 5 + [which_first(slow, slow)]], alternative="less"
    )
    assert (found.wins, found.ties, found.p) == (5, 1, 1 / 32)


def test_orders_of_dates_in_several_runs():
    first, second = [1, 2, 3, np.nan, np.nan, 7], [2, 1, 3, 9, np.nan, np.nan]
    assert orders(first, second, 10) == ["first", "second", "tie", "second", "undecided", "first"]
    assert orders(first, second, [10, 10, 10, 8, 8, 5]) == ["first", "second", "tie", *["undecided"] * 3]
    with pytest.raises(ConfigError, match="pair them"):
        orders([1, 2], [3], 10)
