"""Dates of many entries at once, and heads that take over from one another, on curves whose truth is known.

Bars were declared before the first run: of what is selected at 5%, at most 5% is false on average (7.5% over 40 scans);
real effects are dated in 90%; heads that are alike make a takeover in at most 5% of 200 runs.
"""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError, ShapeError
from mechinterp.curves import dated_effects, first_passage, leadership

STEPS = np.unique(np.geomspace(1, 1000, 40).round())
EXAMPLES = 64


def timeline(truth: np.ndarray, rng, noise: float = 1.0, dims=("step", "edge"), drift: float = 0.3) -> xr.Dataset:
    """Means of the same examples at all checkpoints: what an example deviates by is nearly the same at each."""
    own = rng.normal(0, noise, (EXAMPLES, *truth.shape[1:]))
    each = truth[:, None] + own + drift * rng.normal(0, noise, (len(truth), EXAMPLES, *truth.shape[1:]))
    parts = {"": each.mean(1), "_se": each.std(1, ddof=1) / EXAMPLES**0.5, "_n": np.full(truth.shape, float(EXAMPLES))}
    return xr.Dataset({f"effect{end}": (dims, part) for end, part in parts.items()}, coords={"step": STEPS})


def test_of_many_edges_few_are_dated_that_do_nothing_and_most_that_do():
    rng, real = np.random.default_rng(0), 20
    truth = np.zeros((len(STEPS), 200))
    truth[:, :real] = np.where(STEPS[:, None] >= 100, 1.0, 0.0)
    false, hits, uncorrected = [], [], []
    for _ in range(40):
        line = timeline(truth, rng)
        found = dated_effects(line, "effect")
        chosen = np.flatnonzero(found["selected"].values)
        false.append((chosen >= real).mean() if len(chosen) else 0.0)
        hits.append((found["step"].values[:real] >= 100 * 0.9).mean())
        uncorrected.append((np.abs(line["effect"] / line["effect_se"]) > 2).any("step").values[real:].mean())
        dates = found["step"].values[:real]
        assert np.nanmedian(dates) == STEPS[STEPS >= 100][0]
    assert np.mean(false) <= 0.075 and np.mean(hits) >= 0.9, (np.mean(false), np.mean(hits))
    assert np.mean(uncorrected) > 0.08  # without the correction many an edge that does nothing would be dated


def test_the_number_of_entries_is_paid_for():
    """Of two checkpoints there is little to adjust for, but 180 edges that do nothing give nine p-values below 5%."""
    rng, truth = np.random.default_rng(7), np.zeros((len(STEPS), 200))
    truth[:, :20] = 2.0
    chosen = [dated_effects(timeline(truth, rng).isel(step=[0, -1]), "effect")["selected"].values for _ in range(20)]
    false = [one[20:].sum() / max(one.sum(), 1) for one in chosen]
    assert np.mean(false) <= 0.05 and np.mean([one[:20].mean() for one in chosen]) > 0.95


def test_small_effects_do_not_count_however_certain_they_are():
    rng = np.random.default_rng(1)
    truth = np.zeros((len(STEPS), 3))
    truth[:, 0], truth[:, 1] = 0.05, np.where(STEPS >= 50, 1.0, 0.05)
    truth[:, 2] = np.where((STEPS >= 50) & (STEPS < 200), -1.0, 0.0)
    line = timeline(truth, rng, noise=0.05)
    all_of_them = dated_effects(line, "effect")
    assert all_of_them["selected"].values.tolist() == [True, True, True] and float(all_of_them["step"][0]) == 1
    large = dated_effects(line, "effect", least=0.2)
    assert large["selected"].values.tolist() == [False, True, True] and large.attrs["entries"] == 3
    assert float(large["step"][1]) == STEPS[STEPS >= 50][0] and bool(large["censored"][0])
    positive = dated_effects(line, "effect", least=0.2, side="positive")
    assert positive["selected"].values.tolist() == [False, True, False]
    assert bool(large["transient"][2]) and float(large["left"][2]) == STEPS[STEPS >= 200][0]


def test_entries_keep_their_dimensions_and_what_has_no_example_is_refused():
    rng = np.random.default_rng(2)
    truth = np.zeros((len(STEPS), 2, 3))
    truth[:, 1, 2] = 5.0
    line = timeline(truth, rng, dims=("step", "layer", "head"))
    found = dated_effects(line, "effect")
    assert found["selected"].dims == ("layer", "head") and found["selected"].values.sum() == 1
    assert bool(found["selected"].isel(layer=1, head=2)) and float(found["step"].isel(layer=1, head=2)) == 1
    same = line.assign(effect_se=line["effect_se"] * 0)  # all examples alike: their signs decide
    assert float(dated_effects(same, "effect", least=1.0)["p_value"].isel(layer=1, head=2)) < 1e-9
    with pytest.raises(ConfigError, match="no standard errors"):
        dated_effects(line.assign(effect_se=line["effect_se"] * np.nan), "effect")
    with pytest.raises(ConfigError, match="no 'loss' in this Timeline"):
        dated_effects(line, "loss")
    with pytest.raises(ConfigError, match="no entries beside its steps"):
        dated_effects(line.isel(layer=0, head=0), "effect")


def leads(truth: np.ndarray, rng, drift: float = 0.3, **settings):
    line = timeline(truth, rng, dims=("step", "layer", "head"), drift=drift)
    return leadership(line["effect"], line["effect_se"], line["effect_n"], **settings)


def test_a_head_takes_over_from_another_at_the_step_where_it_is_clearly_ahead():
    rng = np.random.default_rng(3)
    truth = np.zeros((len(STEPS), 2, 3))
    truth[:, 0, 1] = np.where(STEPS >= 20, 2.0, 0.0)
    truth[:, 1, 2] = np.where(STEPS >= 200, 4.0, 0.0)
    found = leads(truth, rng)
    assert [term.head for term in found.terms] == ["L0.H1", "L1.H2"]
    before, after = found.takeovers[0]
    assert before.start == STEPS[STEPS >= 20][0] and after.start == STEPS[STEPS >= 200][0]
    assert after.after == STEPS[STEPS < 200][-1] == before.last
    assert str(found) == f"L0.H1 from step {before.start:g}, then L1.H2 from step {after.start:g}"
    assert found.largest[-1] == found.leading[-1] == "L1.H2" and found.leading[0] == ""
    assert leads(truth, rng, least=10).terms == ()


def test_a_short_lead_is_no_takeover():
    truth = np.zeros((len(STEPS), 1, 2))
    truth[:, 0, 0] = 2.0
    blip = (STEPS >= 100) & (STEPS < 150)  # 0.4 in ln t
    truth[blip, 0, 1] = 5.0
    assert [term.head for term in leads(truth, np.random.default_rng(4)).terms] == ["L0.H0"]
    assert len(leads(truth, np.random.default_rng(4), lasts=0.2).terms) == 3


def test_heads_that_are_alike_do_not_take_over_from_one_another():
    rng = np.random.default_rng(5)
    shared = np.broadcast_to(np.where(STEPS >= 30, 2.0, 0.0)[:, None, None], (len(STEPS), 1, 4))
    found = [leads(shared, rng, drift=1.0) for _ in range(200)]
    assert np.mean([len(one.takeovers) > 0 for one in found]) <= 0.05
    # The largest of them changes all the time.
    assert np.mean([len(set(one.largest)) > 1 for one in found]) > 0.95


def test_a_lead_is_larger_than_both_half_widths_together():
    """Standard errors of 1 from 1000 examples: half-widths of 1.96, so that a lead of 3 is none, and one of 5 is."""
    steps = xr.DataArray(STEPS, dims="step")
    for lead, count in ((3.0, 0), (5.0, 1)):
        mean = xr.DataArray(np.tile([0.0, lead], (len(STEPS), 1, 1)), dims=("step", "layer", "head"))
        mean = mean.assign_coords(step=steps)
        assert len(leadership(mean, xr.ones_like(mean), 1000).terms) == count


def test_leaders_without_intervals_are_refused():
    values = xr.DataArray(np.zeros((3, 1, 2)), dims=("step", "layer", "head"), coords={"step": [1, 2, 3]})
    with pytest.raises(ConfigError, match="no standard errors"):
        leadership(values, values * np.nan, 1)
    with pytest.raises(ShapeError, match="step, layer and head"):
        leadership(values[:, 0], values[:, 0], 1)
    with pytest.raises(ConfigError, match="hold=0"):
        leadership(values, values, 4, hold=0)
    assert str(leadership(values, values, 4)) == "no head leads for long enough"
    blank = first_passage(values[:, 0, 0], chance=0, best=1)
    assert bool(blank["censored"].all())
