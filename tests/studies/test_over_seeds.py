"""A study that is declared in a file: what it trains, dates and tests, what it leaves out and why, and its hash."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import mechinterp as mi
from mechinterp.core import ConfigError, RunError
from mechinterp.studies import DeclaredFile, declared_study
from mechinterp.studies.dates import dates_of
from mechinterp.studies.over_seeds import over_seeds

FILE = """
title = "Which comes first?"
out = "{out}"
seeds = {seeds}
{more}
[task]
name = "induction"
vocab = 16
seq_len = 12
segment = 4

[model]
n_layers = 1
n_heads = 2
d_model = 8

[training]
steps = 6
batch_size = 4
warmup = 0
log_checkpoints = 4
linear_checkpoints = 2

[quantities.early]
measure = "accuracy"
parameters = {{ examples = 8 }}
select = {{ group = "repeat" }}
chance = 0.0
best = 1.0

[quantities.late]
measure = "loss"
parameters = {{ examples = 8 }}
over = {{ group = "max" }}
chance = 3.0
best = 0.0

[[orders]]
first = "early"
second = "late"
expected = "first"
"""
TRANSITION = """
[[transitions]]
name = "repeat"
yardsticks = ["early", "late"]
stepwise = ["early"]
"""
STEPS = np.unique(np.geomspace(1, 1000, 60).round())


def written(folder: Path, seeds: int = 2, more: str = "", transition: bool = False, **changes: str) -> Path:
    text = FILE.format(out=folder / "out", seeds=seeds, more=more) + (TRANSITION if transition else "")
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return path


def lines(dates: np.ndarray, noise: float = 0.0, seed: int = 0) -> list[xr.Dataset]:
    """Timelines whose `early` and `late` jump from the worst to the best at given steps: `[run, 2]`."""
    rng, results = np.random.default_rng(seed), []
    for early, late in dates:
        parts = {"early": (early <= STEPS) * 1.0, "late": 3.0 - 3.0 * (late <= STEPS)}
        parts = {name: part + noise * rng.normal(size=part.shape) for name, part in parts.items()}
        data = {name: (("step", "group"), np.repeat(part[:, None], 2, 1)) for name, part in parts.items()}
        results.append(xr.Dataset(data, coords={"step": STEPS, "group": ["repeat", "fresh"]}))
    return results


def told(path: Path, dates: np.ndarray, noise: float = 0.0):
    declared = DeclaredFile.read(path)
    jobs = declared.content.jobs()
    data = [job.seed if job.training.data_seed is None else job.training.data_seed for job in jobs]
    return over_seeds(declared, dates_of(declared.content, lines(dates, noise), [job.seed for job in jobs], data))


def table(found) -> dict[str, dict]:
    return {row["name"]: row for row in found.findings}


def test_twenty_seeds_of_known_dates(tmp_path: Path):
    rng = np.random.default_rng(0)
    early = np.exp(rng.normal(np.log(60), 0.2, 20))
    late = early * 2
    late[:3] = np.inf
    found = told(written(tmp_path, seeds=20, transition=True), np.stack([early, late], 1))
    rows = table(found)
    date = rows["early passes 0.5 of its range"]
    assert date["low"] < 60 < date["high"] and "Geometric mean" in date["note"]
    median = rows["late passes 0.5 of its range"]
    assert "came in 17 of 20" in median["note"] and median["low"] <= 120 <= median["high"]
    assert rows["late came at all"]["value"] == pytest.approx(17 / 20)
    assert rows["late came at all"]["high"] < 1
    curve = found.parts["survival-late"]
    assert float(curve["waiting"][-1]) == pytest.approx(3 / 20) and curve.attrs["censored"] == 3
    peak = rows["early varies most over seeds"]
    assert peak["low"] <= 60 <= peak["high"] and "Variance there" in peak["note"]
    order = rows["early before late"]
    assert (
        order["value"] == "yes"
        and "Earlier in 20 seeds, later in 0" in order["note"]
        and "Holm over 1" in order["note"]
    )
    assert "0.1: 20/0/0, 0.25: 20/0/0, 0.5: 20/0/0" in order["note"]
    spread = rows["early: deviation of ln t"]
    assert spread["low"] < 0.2 < spread["high"] and rows["late: deviation of ln t"]["value"] == "absent"
    assert rows["repeat is a transition on every continuous yardstick"]["value"] == pytest.approx(17 / 20)
    assert found.sha256 in found.verdict and "early before late: yes" in found.verdict
    assert found.parts["dates-early"]["seed"].values.tolist() == list(range(20))


def test_runs_that_pass_too_late_to_last_are_censored_at_one_step(tmp_path: Path):
    """Watched to step 1000, a passage can last up to step 606; where it came after does not move the curve."""
    curves = []
    for late in (650.0, 900.0):
        dates = np.stack([np.linspace(40, 80, 20), np.r_[np.linspace(90, 200, 15), np.full(5, late)]], 1)
        curves.append(told(written(tmp_path, seeds=20), dates).parts["survival-late"])
    assert curves[0].equals(curves[1]) and curves[0].attrs["censored"] == 5
    assert float(curves[0]["step"][-1]) == pytest.approx(1000 * np.exp(-0.5))


def test_an_order_that_falls_the_other_way_is_not_called_confirmed(tmp_path: Path):
    late_first = np.tile([200.0, 50.0], (20, 1))
    rows = table(told(written(tmp_path, seeds=20), late_first))
    assert rows["early before late"]["value"] == "not shown"
    either = written(tmp_path, seeds=20, **{'expected = "first"': 'expected = "either"'})
    assert table(told(either, late_first))["early before late"]["value"] == "the other way round"


def test_with_few_seeds_a_view_is_absent_and_says_why(tmp_path: Path):
    found = told(written(tmp_path, seeds=5), np.tile([50.0, 100.0], (5, 1)))
    rows = table(found)
    for name, what in (
        ("early: middle half of the dates", "A survival curve"),
        ("early varies most over seeds", "A variance"),
    ):
        assert rows[name]["value"] == "absent"
        assert rows[name]["note"] == f"{what} needs 20 independent runs, and there are 5."
    assert not any(name.startswith(("survival", "susceptibility", "components")) for name in found.parts)
    assert rows["early before late"]["value"] == "yes"  # five of five, declared beforehand: p = 0.031


def crossed_dates(row: float, column: float, rest: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    log = np.log(60) + rng.normal(0, row, 6)[:, None] + rng.normal(0, column, 6) + rng.normal(0, rest, (6, 6))
    return np.stack([np.exp(log).ravel(), 3 * np.exp(log).ravel()], 1)


def test_crossed_seeds_say_what_makes_the_date_vary(tmp_path: Path):
    found = told(written(tmp_path, seeds=6, more="data_seeds = 6"), crossed_dates(0.4, 0.05, 0.1))
    rows = table(found)
    weights, data = (rows[f"early: variance of ln t from {what}"] for what in ("initial weights", "order of the data"))
    assert weights["value"] > 0.7 and weights["low"] > data["value"] and "p = 0.001" in weights["note"]
    assert rows["early before late"]["note"].startswith("Earlier in 6 seeds")  # the diagonal: no two share a seed
    assert rows["early: middle half of the dates"]["value"] == "absent"
    few = table(told(written(tmp_path, seeds=3, more="data_seeds = 3"), np.tile([50.0, 100.0], (9, 1))))
    assert few["early: variance of ln t by seed"]["note"] == "Each factor needs 4 seeds, and one has 3."


def test_crossed_seeds_with_a_run_that_never_came(tmp_path: Path):
    dates = crossed_dates(0.4, 0.05, 0.1)
    dates[0, 0] = np.inf
    row = table(told(written(tmp_path, seeds=6, more="data_seeds = 6"), dates))[
        "early: variance of ln t from initial weights"
    ]
    assert (
        row["value"] == "absent"
        and "1 of 36 runs never got there, or too late" in row["note"]
        and "of ranks" in row["note"]
    )


def test_it_trains_traces_and_tests_and_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path)
    found = declared_study(path, workers=1)
    out = tmp_path / "out"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (out / "declaration.toml").read_bytes() == path.read_bytes()
    assert json.loads((out / "study.json").read_text())["declaration"] == found.sha256
    runs = [mi.Run(out / f"seed-{seed}") for seed in (0, 1)]
    assert [run.seed for run in runs] == [0, 1]
    assert found.parts["series-early"].sizes == {"run": 2, "step": 5}
    monkeypatch.setattr("mechinterp.studies.over_seeds.timeline_of", None)
    monkeypatch.setattr("mechinterp.studies.over_seeds.train_and_trace", lambda *_: runs)
    again = mi.study(path)
    assert again.findings == found.findings and again.sha256 == found.sha256 and again.verdict == found.verdict
    assert again.parts["dates-late"].equals(found.parts["dates-late"])


def test_its_page_says_what_was_declared_and_what_is_absent(tmp_path: Path):
    dates = np.stack([np.linspace(40, 80, 20), np.linspace(90, 200, 20)], 1)
    found = told(written(tmp_path, seeds=20), dates)
    page = mi.report(found, tmp_path / "page.html").read_text()
    assert found.sha256 in page and 'id="survival-plot"' in page and 'id="susceptibility-plot"' in page
    few = told(written(tmp_path, seeds=5), dates[:5])
    page = mi.report(few, tmp_path / "few.html").read_text()
    assert (
        "Absent: a survival curve needs 20 independent runs, and there are 5." in page and "survival-plot" not in page
    )


def test_a_declaration_that_changed_is_refused(tmp_path: Path):
    path = written(tmp_path)
    first = DeclaredFile.read(path)
    (tmp_path / "out").mkdir()
    first.settle(tmp_path / "out")
    path.write_text(path.read_text().replace("chance = 3.0", "chance = 2.0"))
    changed = DeclaredFile.read(path)
    with pytest.raises(RunError, match=f"SHA-256 {first.sha256[:12]}, and .* now has {changed.sha256[:12]}"):
        declared_study(path)
    assert not (tmp_path / "out" / "seed-0").exists()
    (tmp_path / "out" / "declaration.toml").unlink()
    (tmp_path / "out" / "seed-0").mkdir()
    with pytest.raises(RunError, match="holds seed-0 and no declaration"):
        declared_study(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('first = "early"', 'first = "erly"', "orders: no quantity 'erly'. Did you mean 'early'?"),
        ('measure = "loss"', 'measure = "los"', "no measure 'los'. Did you mean 'loss'?"),
        ('select = { group = "repeat" }', "thresholds = [0.5]", "declare the same thresholds for both"),
        ("chance = 3.0", "chance = 0.0", "the range from chance=0.0 to best=0.0 is empty"),
        ("steps = 6", "stepps = 6", "no setting 'stepps'. Did you mean 'steps'"),
        ("steps = 6", "data_seed = 6", "the seeds of the data are data_seeds"),
        ("seeds = 2", "seeds = 1", "name two different seeds or more"),
        ('stepwise = ["early"]', 'stepwise = ["early", "late"]', "needs a continuous yardstick"),
        ('name = "induction"', 'name = "induktion"', "no task 'induktion'"),
    ],
)
def test_what_has_no_meaning_is_one_clear_line(tmp_path: Path, old: str, new: str, says: str):
    path = written(tmp_path, transition=True)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError) as error:
        mi.study(path)
    assert says in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


def test_an_entry_that_does_not_exist_or_is_many_is_named(tmp_path: Path):
    path = written(tmp_path, **{'select = {{ group = "repeat" }}': ""})
    path.write_text(path.read_text().replace('group = "repeat"', 'group = "repet"'))
    with pytest.raises(ConfigError, match=r"no group 'repet'\. Did you mean 'repeat'"):
        told(path, np.tile([50.0, 100.0], (2, 1)))
    path.write_text(path.read_text().replace('select = { group = "repet" }', ""))
    with pytest.raises(ConfigError, match="say in `select` or `over` what becomes of group"):
        told(path, np.tile([50.0, 100.0], (2, 1)))
