"""Every verb works on every task that keeps the contract, or says what the task lacks."""

import pytest
from odd_tasks import ODD_TASKS

import mechinterp as mi
from mechinterp.core import MechinterpError, RunError, UnsupportedError
from mechinterp.pages import report
from mechinterp.studies.shelf import alone

FEW = {"examples": 12, "untrained": 9, "nulls": 9}


@pytest.fixture(scope="module", params=ODD_TASKS, ids=lambda task: task.name)
def run(request, tmp_path_factory):
    return mi.train(request.param, seed=0, out=tmp_path_factory.mktemp("odd") / "run")


def test_study_and_report(run):
    story = mi.study(run, **FEW)
    assert {row["name"] for row in story.findings} and story.found[0] in ("yes", "no", "undecided")
    assert report(run, study=story).stat().st_size > 10_000


def test_effects_circuits_and_probes(run):
    task, model = run.task, run.model()
    if task.name == "odd-no-pairs":
        with pytest.raises(UnsupportedError, match="has no pairs"):
            task.pair(8, 1)
        assert mi.probe(model, task, target="parity", examples=64, site="resid_post")["score"].notnull().all()
        return
    pair = task.pair(12, seed=1)
    for verb in (mi.patch_nodes, mi.patch_edges, mi.estimate_nodes, mi.estimate_edges):
        assert verb(model, pair)["effect"].notnull().all()
    try:
        circuit = mi.discover(model, pair, k=3)
        assert mi.evaluate(model, task.pair(12, seed=2), circuit, nulls=9, untrained=9).attrs["found"] != "yes"
    except MechinterpError as error:  # a model of three steps need not have a gap
        assert "gap" in str(error)


def test_trace_takes_every_measure_or_says_what_is_missing(run):
    for name in mi.measures.names():
        if "example" in name:  # of the docstrings
            continue
        try:
            mi.trace(run, [name])
        except MechinterpError as error:
            assert name in str(error) or "needs" in str(error), (name, error)


def test_a_second_process_that_studies_is_refused(run):
    with alone(run.path), pytest.raises(RunError, match="another process is writing"):
        mi.study(run, **FEW, fresh=True)
