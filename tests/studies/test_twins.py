"""Twins: paired dates of plain and changed runs, what was declared when, and that all can be continued."""

import json
from pathlib import Path

import numpy as np
import pytest

from mechinterp.core import ConfigError
from mechinterp.measures import measure
from mechinterp.studies import Milestone, twins
from mechinterp.tasks import Induction
from mechinterp.timeline import trace
from mechinterp.training import Run

TASK = Induction(vocab=16, seq_len=12, segment=4, repeats=2)
SIZES = dict(n_layers=2, n_heads=2, d_model=8, steps=8, batch_size=4, log_checkpoints=0, linear_checkpoints=8)
GIVE = dict(kind="pattern", heads="L0", to="previous-token")
LOSS = dict(name="loss", measure="loss", params={"examples": 8}, at={"group": "repeat"})
LOSS |= dict(chance=3.5, best=2.0, thresholds=(0.3, 1.0), hold=1, lasts=0.0)
HEAD = dict(name="previous", measure="head_scores", params={"examples": 8}, at={"score": "previous_token"})
HEAD |= dict(best_of=True, chance=0.2, best=1.0, thresholds=(0.9,), hold=2, lasts=0.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    out = tmp_path_factory.mktemp("twins") / "runs"
    result = twins(TASK, [GIVE], [LOSS, HEAD], seeds=[0, 1], out=out, workers=1, **SIZES)
    return out, result


def test_twins_differ_in_nothing_but_the_interventions(pairs):
    out, _ = pairs
    for seed in (0, 1):
        plain, changed = (
            json.loads((out / arm / f"seed-{seed}" / "run.json").read_text()) for arm in ("plain", "changed")
        )
        assert changed.pop("interventions")[0]["kind"] == "pattern" and changed == plain
        first = [
            (out / arm / f"seed-{seed}" / "checkpoints/00000000.safetensors").read_bytes()
            for arm in ("plain", "changed")
        ]
        assert first[0] == first[1]


def test_dates_are_first_passages_of_the_traced_curves(pairs):
    out, result = pairs
    run = Run(out / "changed" / "seed-1")
    line = trace(run, measure("head_scores", examples=8), interventions=True)
    best = line["head_scores"].sel(score="previous_token").max(["layer", "head"])
    assert np.array_equal(result.curves["previous"].sel(arm="changed", seed=1), best)
    assert best.values == pytest.approx(1)
    assert result.dates["step"].sel(date="previous (0.9)", arm="changed").values.tolist() == [0, 0]
    assert np.isnan(result.dates["step"].sel(date="previous (0.9)", arm="plain")).all()
    assert list(result.shifts) == ["loss (0.3)", "loss (1)", "previous (0.9)"]
    shift = result.shifts["previous (0.9)"]
    # At step 0, against later than step 8: at most 1/9.
    assert (shift.complete, shift.pairs, shift.test.wins) == (0, 2, 2) and shift.most == pytest.approx(1 / 9)
    assert result.came("previous (0.9)", "plain")[:3] == (0, 2, 0.0)
    assert result.came("previous (0.9)", "plain")[3] == pytest.approx(1 - 0.05**0.5)


def test_it_says_what_was_compared(pairs):
    _, result = pairs
    assert str(result).splitlines()[0] == (
        "induction, 2 pairs of runs: pattern against plain training; changed runs measured with their interventions; "
        "dates declared before the runs"
    )
    assert "previous (0.9): no pair of 2 in which both came; over all pairs x0.111 or less" in str(result)
    page = result._repr_html_()
    assert page.count("<tr>") == 4 and "<td>0 of 2</td><td>2 of 2</td>" in page


def test_a_second_call_reads_and_says_if_dates_are_new(pairs):
    out, result = pairs
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = twins(TASK, [GIVE], [LOSS, HEAD], seeds=[0, 1], out=out, workers=1, **SIZES)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert again.dates.identical(result.dates) and again.curves.identical(result.curves)


def test_other_dates_and_the_plain_models(pairs):
    out, result = pairs
    other = {**HEAD, "thresholds": [0.5]}
    plain = twins(TASK, [GIVE], [other], seeds=[0, 1], out=out, under=False, workers=1, **SIZES)
    assert plain.attrs["declared"] == "after the runs" and result.attrs["declared"] == "before the runs"
    assert plain.attrs["interventions"] == "without"
    assert np.isnan(plain.dates["step"].sel(arm="changed")).all()


def test_an_intervention_without_effect_moves_nothing(tmp_path: Path):
    """The null of twins: the changed runs are the plain ones, bit for bit."""
    nothing = dict(kind="pattern", heads="L0", to="uniform", strength=0)
    sizes = {**SIZES, "steps": 60, "batch_size": 8, "lr": 0.03, "linear_checkpoints": 20}
    below = {**LOSS, "params": {"examples": 64}, "chance": 3.8, "best": 2.0, "thresholds": (0.5,)}
    result = twins(TASK, [nothing], [below], seeds=[0, 1], out=tmp_path, workers=1, keep=[], **sizes)
    assert len(list(tmp_path.glob("*/*/checkpoints/*"))) == 4
    assert np.array_equal(result.curves["loss"].sel(arm="plain"), result.curves["loss"].sel(arm="changed"))
    assert result.dates["step"].sel(arm="plain").values.tolist() == [[9, 12]]
    shift = result.shifts["loss (0.5)"]
    assert shift.complete == 2 and shift.ratio == 1 and shift.low < 1 < shift.high and shift.test.ties == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(measure="losss"), "no measure 'losss'. Did you mean 'loss'"),
        (dict(chance=2.0), "the range from chance=2.0 to best=2.0 is empty"),
        (dict(thresholds=(1.5,)), r"thresholds are shares of the range in \(0, 1\]"),
        (dict(params={"example": 3}), "measure 'loss' has no parameter 'example'"),
        (dict(treshold=1), "no setting 'treshold'"),
    ],
)
def test_a_bad_milestone_is_one_clear_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        Milestone(**{**LOSS, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(at={"group": "repeats"}), "milestone 'loss': no group 'repeats'. Did you mean 'repeat'"),
        (dict(at={"groups": "repeat"}), "milestone 'loss': no dimension 'groups'. Did you mean 'group'"),
        (dict(at={}), "milestone 'loss': say which group with `at`"),
    ],
)
def test_an_entry_that_is_not_there(pairs, changes, message):
    out, _ = pairs
    milestone = Milestone(**{**LOSS, **changes})
    line = trace(Run(out / "plain" / "seed-0"), {milestone.what.key: milestone.what})
    with pytest.raises(ConfigError, match=message):
        milestone.curve(line)


def test_twins_without_difference_or_seeds_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="twins differ by interventions: name at least one"):
        twins(TASK, [], [LOSS], seeds=[0], out=tmp_path / "a")
    with pytest.raises(ConfigError, match="twins need at least one seed"):
        twins(TASK, [GIVE], [LOSS], seeds=[], out=tmp_path / "a")
    with pytest.raises(ConfigError, match="two milestones have one name"):
        twins(TASK, [GIVE], [LOSS, LOSS], seeds=[0], out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
