"""From numbers to verdicts, against answers known by hand."""

import math

import numpy as np
import pytest
import xarray as xr

from mechinterp.claims import Claim, Subject, decide
from mechinterp.claims.numbers import numbers_of, pick
from mechinterp.claims.schema import Select
from mechinterp.claims.verify import ClaimResult
from mechinterp.core import ConfigError
from mechinterp.core.statistics import Interval, mean_interval
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction


def claim(**settings) -> Claim:
    given = dict(id="a", sentence="s", purpose="mechanism", model="two", measure="loss", compare=">=", value=0.5)
    return Claim(**{**given, **settings})


ORDER = dict(
    compare="after", value=0, on=("retrained",), against={"model": "one"}, passage={"chance": 0.0, "best": 1.0}
)


def numbers(*values: float) -> list[Interval]:
    return [Interval.exact(value) for value in values]


@pytest.mark.parametrize(
    ("settings", "values", "verdict"),
    [
        (dict(), (0.5,), "reproduced"),
        (dict(), (0.4,), "not reproduced"),
        (dict(weaker=0.3), (0.4,), "weaker"),
        (dict(weaker=0.3), (0.2,), "not reproduced"),
        (dict(), (0.6, 0.7, 0.8), "reproduced"),
        (dict(), (0.6, 0.7, 0.4), "weaker"),  # the mean passes, one seed does not
        (dict(), (0.6, 0.1, 0.1), "not reproduced"),
        (dict(), (0.6, math.nan), "not reproduced"),
        (dict(compare="<=", weaker=1.0), (0.4, 0.9), "weaker"),
        (dict(compare="between", high=1.0), (0.7,), "reproduced"),
        (dict(compare="between", high=1.0), (1.1,), "not reproduced"),
        (dict(compare="equals", within=0.1), (0.45, 0.55), "reproduced"),
        (dict(compare="equals", within=0.1), (0.3,), "not reproduced"),
        (ORDER, (20.0,) * 5, "reproduced"),  # 5 of 5: p = 1/32
        (ORDER, (20.0,) * 4, "not testable at this scale"),
        (ORDER, (20.0, 20.0, math.inf, 20.0, 20.0), "reproduced"),  # the other never came
        (ORDER, (20.0, 20.0, 0.0, 20.0, 20.0), "weaker"),  # a tie counts against it: p = 6/32
        (ORDER, (20.0, 20.0, math.nan, 20.0, 20.0), "not testable at this scale"),  # 5 of 5, or 4
        (ORDER, (20.0, -20.0, -20.0, math.nan, 0.0), "not reproduced"),  # whatever was not watched
        (ORDER, (20.0, -20.0, -20.0, 20.0, 0.0), "not reproduced"),
        (ORDER, (20.0, -20.0, *[20.0] * 6), "reproduced"),  # 7 of 8: p = 9/256
        (ORDER, (20.0, -20.0, *[20.0] * 5), "weaker"),  # 6 of 7: p = 8/128 = .0625
        (ORDER, (20.0, -20.0, -20.0, 20.0, 20.0), "not reproduced"),  # 3 of 5: p = 1/2
    ],
)
def test_verdict(settings: dict, values: tuple[float, ...], verdict: str):
    assert decide(claim(**settings), numbers(*values))[0] == verdict


def test_one_model_must_pass_with_its_whole_interval():
    assert decide(claim(), [Interval(0.55, 0.51, 0.59)])[0] == "reproduced"
    assert decide(claim(), [Interval(0.55, 0.45, 0.65)])[0] == "weaker"


def test_over_seeds_the_interval_is_students():
    _, found = decide(claim(), numbers(1.0, 2.0, 3.0))
    assert (found.value, round(found.low, 2), round(found.high, 2)) == (2.0, -0.48, 4.48)


def test_intervals_of_a_difference_add_as_squares():
    found = Interval(3.0, 2.7, 3.3).minus(Interval(1.0, 0.6, 1.4))
    assert (found.value, round(found.low, 6), round(found.high, 6)) == (2.0, 1.5, 2.5)


def test_examples_that_both_sides_share_are_compared_one_by_one():
    noise = np.array([0.0, 5.0, -5.0, 10.0])
    both = [mean_interval(noise + shift) for shift in (np.array([2.0, 2.1, 1.9, 2.0]), np.zeros(4))]
    found = both[0].minus(both[1])
    assert found.value == pytest.approx(2.0)
    assert found.high - found.low == pytest.approx(2 * 3.18245 * np.std([0, 0.1, -0.1, 0], ddof=1) / 2, rel=1e-4)


def test_examples_that_only_one_side_has_are_not_paired():
    some, others = np.array([1.0, 3.0, np.nan, np.nan]), np.array([np.nan, np.nan, 1.0, 2.0])
    first, second = mean_interval(some), mean_interval(others)
    assert first.minus(second).value == 0.5
    assert second.over(Interval(2.0, 1.9, 2.1, some)).value == pytest.approx(0.75)


def test_a_ratio_is_that_of_the_means_and_its_interval_shrinks_where_examples_agree():
    rows = np.array([1.0, 2.0, 3.0, 4.0])
    found = mean_interval(1.2 * rows).over(mean_interval(rows))
    assert (found.value, found.low, found.high) == pytest.approx((1.2, 1.2, 1.2))
    against_theory = mean_interval(rows).over(Interval.exact(5.0))
    low, high = (2.5 + sign * 3.18245 * np.std(rows, ddof=1) / 2 for sign in (-1, 1))
    assert (against_theory.value, against_theory.low, against_theory.high) == pytest.approx(
        (0.5, low / 5, high / 5), rel=1e-4
    )
    assert math.isnan(Interval.exact(1.0).over(Interval(0.1, -0.1, 0.3)).value)  # nothing sure to divide by


@pytest.fixture(scope="module")
def subject() -> Subject:
    config = ModelConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=8, n_ctx=8)
    model = Transformer(config, seed=0)
    found = Subject(Induction(vocab=8, seq_len=8, segment=2, repeats=2), 0, config, model)
    scores = xr.DataArray([[[0.1, 0.2], [0.9, 0.3]]], dims=("score", "layer", "head"), coords={"score": ["induction"]})
    found._types["final"] = xr.Dataset({"head_score": scores})
    return found


TABLE = xr.DataArray(
    np.arange(24.0).reshape(2, 2, 2, 3),
    dims=("score", "layer", "head", "example"),
    coords={"score": ["previous_token", "induction"], "layer": [0, 1], "head": [0, 1]},
)


@pytest.mark.parametrize(
    ("select", "value"),
    [
        (dict(where={"score": "induction", "layer": 0, "head": 1}), 16.0),
        (dict(where={"score": "induction"}, head_type="induction"), 19.0),
        (dict(where={"score": "induction"}, reduce="max"), 22.0),
        (dict(where={"score": "induction"}, reduce="min"), 13.0),
        (dict(where={"score": "induction"}, reduce="mean"), 17.5),
        (dict(where={"score": "induction"}, reduce="count", above=19.0), 2.0),
    ],
)
def test_pick(subject: Subject, select: dict, value: float):
    assert pick(TABLE, Select(**select), subject).value == value


def test_the_interval_of_a_maximum_is_the_one_entrys(subject: Subject):
    found = pick(TABLE, Select(where={"score": "induction"}, reduce="max"), subject)
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) * sd 1 / sqrt(n)
    assert found.low == pytest.approx(22 - half) and found.high == pytest.approx(22 + half)


def test_head_types_stand_for_heads_in_edges(subject: Subject):
    table = xr.DataArray([1.0, 2.0], dims="edge", coords={"edge": ["L0.H0->L1.H0.k", "L0.H0->L1.H1.k"]})
    assert pick(table, Select(where={"edge": "L0.H0->{induction}.k"}), subject).value == 1.0


@pytest.mark.parametrize(
    ("select", "says"),
    [
        (dict(where={"scor": "induction"}), "no dimension 'scor'. Did you mean 'score'"),
        (dict(where={"score": "inductoin"}), "no score 'inductoin'. Did you mean 'induction'"),
        (dict(where={"score": "induction"}), r"select leaves dimensions \['layer', 'head'\]"),
        (dict(where={"score": "{inductoin}"}), "no head type 'inductoin'"),
    ],
)
def test_a_selection_that_leads_nowhere(subject: Subject, select: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        pick(TABLE, Select(**select), subject)


@pytest.mark.parametrize(
    ("verdict", "known", "failed"),
    [
        ("reproduced", None, False),
        ("weaker", None, True),
        ("not reproduced", None, True),
        ("not testable at this scale", None, False),
        ("not reproduced", "not reproduced", False),
        ("not reproduced", "weaker", True),
        ("reproduced", "weaker", False),
    ],
)
def test_what_counts_as_a_failure(verdict: str, known: str | None, failed: bool):
    given = claim(known=None if known is None else {"verdict": known, "why": "w"}).known
    result = ClaimResult("c", "a", "own", None, 1.0, 0.9, 1.1, ">= 0.5", (0,), verdict, known=given)  # type: ignore[arg-type]
    assert result.failed is failed
    assert list(result.to_dict()) == [
        "circuit", "claim", "source", "published", "measured", "low", "high", "tolerance", "seeds", "verdict",
        "purpose",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "select"),
    [
        (dict(measure="head_scores"), {"where": {"score": "induction", "layer": 1, "head": 0}}),
        (dict(measure="circuit_faithfulness", params={"edges": ["L0.H0->L1.H0.k"]}), {"where": {"quantity": "full"}}),
        (dict(measure="removal", params={"edges": ["L0.H*->L1.H*.k"]}), {}),
    ],
)
def test_a_shallower_model_has_no_such_number(measured: dict, select: dict):
    task = Induction(vocab=64, seq_len=32, segment=6, repeats=2)
    config = ModelConfig(n_layers=1, n_heads=1, d_model=8, d_vocab=64, n_ctx=32)
    group = {"two": Subject(task, 0, config, Transformer(config))}
    ((seed, found),) = numbers_of(claim(**measured, select=select), group, alone=True)
    assert seed == 0 and math.isnan(found.value)
    assert decide(claim(**measured, select=select), [found])[0] == "not reproduced"
