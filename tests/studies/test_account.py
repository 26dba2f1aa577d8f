"""The account of hand-made results: every number is known, and so is what was not found."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import mechinterp as mi
from mechinterp.core import ConfigError
from mechinterp.curves import paired_shift
from mechinterp.studies import Study, Twins, account
from mechinterp.studies.account import METHODS_HEADING
from mechinterp.studies.part import Part, row
from mechinterp.studies.twins import TwinsDeclaration
from tests.studies.test_over_seeds import STEPS, told, written

FORMED, ORDER, CAUSE, EVIDENCE, VARIES = (
    "What formed, and when",
    "In which order",
    "What made it form",
    "With what evidence",
    "How dates vary over seeds",
)
SHORT, UNTESTED = "Tested, and not found or not decided", "Not tested, and why"
ALL = "all checkpoints"
N = "78 checkpoints"
DATES = [
    row("late thing appeared", 240.0, (230.0, 250.0), None, "steps", ALL, n=N, outcome="found"),
    row("early thing appeared", 60.0, (50.0, 70.0), None, "steps", ALL, n=N, outcome="found"),
    row("third thing appeared", "no transition", where=ALL, note="it is flat.", n=N),
]
NUMBERS = [
    row("score", 0.9, (0.85, 0.95), 0.2, "", "step 1200", "A note.", n="64 sequences"),
    row("other score", 0.21, (0.19, 0.23), 0.2, "", "step 1200", "A note.", n="64 sequences"),
    row("loss on repeat", 0.1, (0.05, 0.15), 4.2, "nats", "step 1200", n="64 sequences", lower_is_better=True),
    row("untested", "not testable", where="step 1200", note="There is no pair."),
]
RECORD = {
    "task": {"name": "induction", "vocab": 64},
    "model": {"n_layers": 2, "n_heads": 4, "d_model": 64, "d_vocab": 64, "n_ctx": 64},
    "training": {"steps": 1200, "lr": 0.003},
    "seeds": [0],
    "checkpoints": [78, 0, 1200],
    "versions": {"mechinterp": "0.1.0", "torch": "2.13.0"},
}


def story(dates=DATES, numbers=NUMBERS) -> Study:
    findings = [*Part(rows=dates, topic="formed").findings, *Part(rows=numbers).findings]
    timeline = xr.Dataset({"loss": ("step", [1.0], {"measure": "loss", "params": '{"examples": 128}'})}, {"step": [0]})
    settings = {"seed": 0, "examples": 128, "untrained": 10, "nulls": 100, "head_types": []}
    return Study("A verdict.", findings, {"timeline": timeline.assign_attrs(run="runs/induction-0")}, settings, RECORD)


def pairs(plain: list[float], changed: list[float]) -> Twins:
    """Twins with one date; NaN did not come by step 1000."""
    steps = np.array([plain, changed])
    clear = np.where(np.isnan(steps), 1000.0, steps - 1)
    dates = xr.Dataset(
        {"step": (("date", "arm", "seed"), steps[None]), "clear": (("date", "arm", "seed"), clear[None])},
        {"date": ["induction (0.5)"], "arm": ["plain", "changed"], "seed": range(len(plain))},
    )
    at = dates.sel(date="induction (0.5)", drop=True).rename(seed="pair")
    shift = paired_shift(at.sel(arm="plain", drop=True), at.sel(arm="changed", drop=True), "earlier")
    declared = TwinsDeclaration.of(
        {
            "interventions": [{"kind": "scale", "site": "L0.H0.z", "factor": 0.0}],
            "milestones": [{"name": "induction", "measure": "loss", "chance": 4.0, "best": 0.0, "best_of": True}],
            "expect": "earlier",
        }
    )
    attrs = {"task": "induction", "declared": "before the runs", "interventions": "with", "record": RECORD}
    return Twins(declared, {"induction (0.5)": shift}, dates, xr.Dataset(), attrs)


def test_what_formed_stands_in_the_order_of_dates_with_interval_count_and_place():
    sections = account(story()).sections
    assert sections[FORMED] == [
        "Early thing appeared: step 60 (95% interval 50 to 70; no null; n = 78 checkpoints; all checkpoints).",
        "Late thing appeared: step 240 (95% interval 230 to 250; no null; n = 78 checkpoints; all checkpoints).",
    ]
    assert sections[EVIDENCE] == [
        "Score: 0.900 (95% interval 0.850 to 0.950; null 0.200; n = 64 sequences; step 1200). A note.",
        "Loss on repeat: 0.100 nats (95% interval 0.0500 to 0.150 nats; null 4.20 nats; n = 64 sequences; step 1200).",
    ]
    assert VARIES not in sections


def test_what_was_not_found_is_told_with_its_numbers():
    sections = account(story()).sections
    assert sections[SHORT] == [
        "Third thing appeared: no transition (n = 78 checkpoints; all checkpoints). It is flat.",
        "Other score: 0.210 (95% interval 0.190 to 0.230; null 0.200; n = 64 sequences; step 1200). A note.",
    ]
    assert sections[UNTESTED] == ["Untested: not testable (step 1200). There is no pair."]
    assert sections[CAUSE] == ["No twins were given: 0 interventions in training were tested."]


def test_a_run_in_which_nothing_is_found_says_so():
    nothing = account(story(DATES[2:], NUMBERS[1:2]))
    assert nothing.sections[FORMED] == ["Nothing was found: 0 of 1 tests."]
    assert nothing.sections[EVIDENCE] == ["Nothing was found: 0 of 1 tests."]
    assert len(nothing.sections[SHORT]) == 2
    assert "appeared: step" not in nothing.text
    everything = account(story(DATES[:2], NUMBERS[:1]))
    assert everything.sections[SHORT] == ["0 of 3 findings fell short of their null or level."]


def test_the_methods_are_a_paragraph_with_settings_measures_and_versions():
    methods = account(story()).methods
    for words in (
        "Task: induction (vocab 64).",
        "Model: a transformer with n layers 2, n heads 4, d model 64",
        "Training: AdamW with steps 1200, lr 0.003.",
        "Seeds: 0.",
        "Checkpoints: 78, from step 0 to 1200.",
        "loss (examples 128)",
        "10 untrained models",
        "torch 2.13.0",
    ):
        assert words in methods
    assert "\n" not in methods and account(story()).markdown.endswith(f"## {METHODS_HEADING}\n\n{methods}\n")


def test_twins_say_what_made_it_form():
    plain = [200.0, 220.0, 180.0, 240.0, 210.0, np.nan]
    result = account(story(), pairs(plain, [100.0, 110.0, 90.0, 120.0, 105.0, 100.0]))
    (sentence,) = result.sections[CAUSE]
    assert sentence.startswith(
        "twins on induction: Step of induction (0.5) with the interventions, over its step without: 0.500 "
        "(95% interval 0.500 to 0.500; null 1; n = 5 of 6 pairs; all checkpoints). "
    )
    assert "plain in 5 of 6, changed in 6 of 6" in sentence and f"Holm over 1: {0.5**6:.3g}" in sentence
    assert "the changed runs had: start 0, site L0.H0.z, kind scale, factor 0." in result.methods
    assert result.title == "Account of induction-0, twins on induction"
    same = account(pairs(plain, plain)).sections
    assert same[CAUSE][0] == "Nothing was found: 0 of 1 tests." and len(same[SHORT]) == 1


def test_many_seeds_have_an_account_too(tmp_path: Path):
    rng = np.random.default_rng(0)
    early = np.exp(rng.normal(np.log(60), 0.2, 20))
    late = 2 * early
    late[:3] = np.inf
    study = told(written(tmp_path, seeds=20), np.stack([early, late], 1))
    sections = account(study).sections
    first, second = sections[FORMED][:2]
    mean = np.exp(np.log(STEPS[np.searchsorted(STEPS, early)]).mean())
    assert first.startswith(f"Early passes 0.5 of its range: step {mean:#.3g} (95% interval ")
    assert "; no null; n = 20 runs; dates, all independent runs)" in first
    assert second.startswith("Late passes 0.5 of its range: step 1") and "17 of 20 independent runs" in second
    assert sections[ORDER][0].startswith("Early before late: yes (n = 20 runs; order, all independent runs).")
    assert any("varies most" in one for one in sections[VARIES])
    methods = account(study).methods
    assert (
        study.sha256 in methods
        and "Seeds: 0 to 19." in methods
        and "measure accuracy (examples 8" in methods
        and "vocab 16" in methods
    )
    few = account(told(written(tmp_path, seeds=5), np.tile([50.0, 100.0], (5, 1)))).sections
    assert any("survival" in one and "there are 5" in one for one in few[UNTESTED])


def test_a_page_holds_it_with_every_word_escaped(tmp_path: Path):
    study = told(written(tmp_path, seeds=5), np.tile([50.0, 100.0], (5, 1)))
    page = mi.report(study, tmp_path / "page.html").read_text()
    assert 'id="account"' in page and f"<h3>{METHODS_HEADING}</h3>" in page and f"<h3>{UNTESTED}</h3>" in page


def test_nothing_has_no_account():
    with pytest.raises(ConfigError, match="at least one result"):
        account()
