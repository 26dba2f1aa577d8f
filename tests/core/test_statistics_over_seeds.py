"""Statistics over seeds and against nulls: known answers."""

import numpy as np
import pytest
from scipy import stats

from mechinterp.core import ConfigError
from mechinterp.core.statistics import false_discovery, holm, kaplan_meier, order_test, p_value, seed_interval


def test_a_p_value_counts_the_value_itself():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert p_value(0.5, null) == 1 / 5 and p_value(0.3, null) == 3 / 5
    assert p_value(0.3 + 1e-12, null) == 3 / 5  # equal up to rounding
    assert np.isnan(p_value(np.nan, null)) and np.isnan(p_value(0.5, null[:0]))


def test_sign_test_is_exact():
    assert order_test(["first"] * 5, alternative="less").p == 1 / 32
    assert order_test(["first"] * 5).p == 1 / 16
    six = order_test(["first"] * 6)
    assert six.p == 1 / 32 and six.wins == 6
    assert order_test(["first"] * 4 + ["second"], alternative="less").p == pytest.approx(6 / 32)


def test_ties_and_censored_runs_in_the_sign_test():
    words = ["first", "first", "first", "tie", "second", "censored"]
    found = order_test(words, alternative="less")
    assert (found.wins, found.losses, found.ties) == (3, 1, 2)
    assert found.p == 5 / 16
    assert order_test(words, alternative="less", ties="against").p == pytest.approx(42 / 64)
    assert order_test(["tie", "tie"]).p == 1.0
    with pytest.raises(ConfigError, match="needs alternative='less'"):
        order_test(words, ties="against")


def test_seed_interval_covers_on_the_logarithmic_scale():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        found = seed_interval(np.exp(rng.normal(np.log(250), 0.2, 5)))
        covered += found.low <= 250 <= found.high
    assert 0.92 <= covered / 400 <= 0.98
    assert seed_interval([100, 400]).step == pytest.approx(200)
    with pytest.raises(ConfigError, match="1 of 3 runs never got there"):
        seed_interval([100, np.nan, 200])


def test_kaplan_meier_by_hand():
    found = kaplan_meier([100, 200, np.nan, 300, np.nan], last=[400, 400, 150, 400, 400])
    assert found["step"].values.tolist() == [100, 150, 200, 300, 400]
    assert np.allclose(found["waiting"], [0.8, 0.8, 0.8 * 2 / 3, 0.8 / 3, 0.8 / 3])
    assert found.attrs["median"] == 300 and found.attrs["censored"] == 2
    nobody = kaplan_meier([np.nan, np.nan], last=500)
    assert nobody.attrs["median"] == np.inf and nobody["waiting"].values.tolist() == [1.0]


def test_false_discovery_by_hand():
    single = np.array([0.01, np.nan, 0.04, 0.03])
    assert false_discovery(single, "positive") == pytest.approx([0.03, np.nan, 0.04, 0.04], nan_ok=True)
    assert false_discovery(single) == pytest.approx(np.array([0.03, np.nan, 0.04, 0.04]) * 11 / 6, nan_ok=True)
    assert false_discovery(np.array([])).size == 0
    with pytest.raises(ConfigError, match=r"lie in \[0, 1\]"):
        false_discovery(np.array([1.5]))


@pytest.mark.parametrize("dependence", ["positive", "any"])
def test_of_what_is_found_among_many_few_are_false(dependence: str):
    """90 nulls with a common part beside 10 true effects: the share of false findings stays below the level."""
    rng, shares, hits = np.random.default_rng(0), [], []
    for _ in range(300):
        z = 0.7 * rng.normal() + 0.714 * rng.normal(size=100)
        z[:10] += 5
        found = false_discovery(stats.norm.sf(z), dependence) <= 0.05
        shares.append(found[10:].sum() / max(found.sum(), 1))
        hits.append(found[:10].sum())
    assert np.mean(shares) <= 0.05 and np.mean(hits) >= 5


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    with pytest.raises(ConfigError, match=r"\['b'\]"):
        holm({"a": 0.1, "b": 1.2})
