import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import xarray as xr

import mechinterp as mi
from mechinterp.core import Circuit, RunError
from mechinterp.pages import report
from mechinterp.studies.causal import CircuitEvidence
from mechinterp.studies.evidence import pack_circuit
from mechinterp.studies.heads import pack_onsets
from mechinterp.studies.learning import pack_predictors
from mechinterp.studies.part import row
from mechinterp.training import Run


class Page(HTMLParser):
    """Tags with attributes, ids, and the words outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words, self._quiet = "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._quiet += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._quiet -= tag in ("script", "style")

    def handle_data(self, data):
        self.words += "" if self._quiet else data

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("id")]


@pytest.fixture(scope="module")
def text(run, study, tmp_path_factory) -> str:
    return report(run, tmp_path_factory.mktemp("out") / "page.html", study).read_text()


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_every_section_and_figure_is_there(page):
    sections = [
        "numbers",
        "loss",
        "theory",
        "order",
        "heads",
        "nodes",
        "circuit",
        "faithfulness",
        "probes",
        "account",
        "settings",
    ]
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == sections
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{name}" for name in sections]
    plots = [f"{name}-plot" for name in ("loss", "heads", "nodes", "circuit", "faithfulness", "probes")]
    assert set(plots) <= set(page.ids) and len(page.ids) == len(set(page.ids))


def test_verdict_and_numbers_with_their_nulls_are_in_words(page, study):
    assert study.verdict in page.words
    for words in (
        "previous-token head L0.H2, score",
        "0.912",
        "0.905 to 0.918",
        "Step 1200. Chosen",
        "of 52 live edges",
        "91% to 97%",
    ):
        assert words in page.words


def test_the_page_needs_nothing_else(text, page):
    assert not [attrs for tag, attrs in page.tags if tag in ("script", "img", "iframe") and attrs.get("src")]
    assert [attrs["href"] for tag, attrs in page.tags if tag == "link"] == ["data:,"]
    assert text.count("plotly.js v") == 1 and len(text) < 6_000_000


def test_every_figure_says_how_to_read_it_and_what_it_shows(page):
    figures = [attrs for tag, attrs in page.tags if tag == "figure"]
    assert len(figures) == 6 and all(len(attrs["aria-label"] or "") > 20 for attrs in figures)
    assert page.words.count("How to read it.") == 6


def test_configuration_and_versions_are_listed(page, run):
    for words in (str(run.path), "rotary", "segment", run.config.versions["torch"], "0.003"):
        assert words in page.words


def test_an_onset_that_is_none_is_said_to_be_none(page, study):
    assert not study.onsets["duplicate token"].found
    assert "No transition is claimed for duplicate token" in page.words


def test_words_from_outside_are_escaped(run, study, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    findings = [row(evil, 1.0, note=evil)]
    nodes = study.nodes.assign_coords(role=[evil, "b", "c", "d"])
    parts = {**study.parts, "nodes": nodes, "predictors": pack_predictors({evil: 1.0})}
    changed = replace(study, verdict=evil, findings=findings, parts=parts)
    text = report(run, tmp_path / "page.html", changed).read_text()
    assert evil not in text and text.count("&lt;/script&gt;") == 5
    assert not [tag for tag, attrs in Page(text).tags if "onerror" in attrs]


def test_missing_parts_leave_a_note(run, study, tmp_path):
    bare = replace(study, parts={}, findings=[])
    page = Page(report(run, tmp_path / "page.html", bare).read_text())
    for part in ("findings", "head scores", "node patching", "edge effects", "faithfulness curve", "probes"):
        assert re.search(f"This study holds no .*{part}", page.words)
    assert "loss-plot" in page.ids and "circuit-plot" not in page.ids


def test_no_gap_is_no_faithfulness(run, study, tmp_path):
    untrained = replace(study, parts={**study.parts, "curve": study.curve.assign(valid=False)})
    page = Page(report(run, tmp_path / "page.html", untrained).read_text())
    assert "not distinguishable from zero" in page.words and "faithfulness-plot" not in page.ids


def test_same_results_give_the_same_page_by_path_or_run(run, study, tmp_path, text):
    assert report(run.path, tmp_path / "deep" / "page.html", study).read_text() == text
    assert mi.report(run, study=study) == run.path / "report.html"


def test_a_folder_that_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(RunError, match="no run"):
        report(tmp_path)


def test_a_model_that_learnt_nothing_has_a_page_too(run, study, tmp_path):
    heads = study.parts["heads"]
    parts = {
        **study.parts,
        "heads": heads.assign(of_type=xr.zeros_like(heads["of_type"])),
        "onsets": pack_onsets({"loss on repeat": study.onsets["duplicate token"]}),
        "circuit": pack_circuit(CircuitEvidence("no", "there is no gap", Circuit([]))),
        "curve": study.curve.assign(valid=False, faithfulness=study.curve["faithfulness"] * float("nan")),
        "timeline": study.timeline.assign(edge_effects=study.timeline["edge_effects"] * 0),
    }
    del parts["evaluation"]
    nothing = replace(study, parts=parts)
    assert nothing.heads == {"previous_token": [], "induction": []}
    page = Page(report(run, tmp_path / "page.html", nothing).read_text())
    assert {"heads-plot", "circuit-plot", "loss-plot"} <= set(page.ids)


def test_a_run_that_logged_nothing_shows_the_measured_loss(study, tmp_path):
    checkpoint = tmp_path / "0.bin"
    checkpoint.touch()
    foreign = Run.from_checkpoints({0: checkpoint}, lambda path: torch.nn.Linear(1, 1))
    text = report(foreign, tmp_path / "page.html", study).read_text()
    page = Page(text)
    assert "loss-plot" in page.ids and "How a transformer learnt its task" in page.words
    assert "loss_repeat falls from 4.2 to 0.00" in next(a["aria-label"] for t, a in page.tags if t == "figure")


def test_the_study_in_the_folder_is_read(run, study, tmp_path, page):
    copy = Run(shutil.copytree(run.path, tmp_path / "copy"))
    study.save(copy)
    read = Page(mi.report(copy).read_text())
    assert read.words.replace(str(copy.path), str(run.path)) == page.words and read.ids == page.ids


def test_a_run_without_a_study_says_so(run, tmp_path):
    with pytest.raises(RunError, match="study"):
        report(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
