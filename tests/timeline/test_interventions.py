"""Traces of a Run that was trained under interventions: with them, without them, and never one for the other."""

from pathlib import Path

import numpy as np
import pytest

from mechinterp.core import ConfigError, UnsupportedError
from mechinterp.measures import measure
from mechinterp.tasks import Induction
from mechinterp.timeline import Memory, trace
from mechinterp.training import train

TASK = Induction(vocab=16, seq_len=12, segment=4, repeats=2)
GIVE = [dict(kind="pattern", heads="L0.H1", to="previous-token", stop=4), dict(kind="scale", site="L1.H0.z", factor=0)]
SIZES = dict(n_layers=2, n_heads=2, d_model=8, steps=6, batch_size=4, log_checkpoints=0, linear_checkpoints=3)
FORWARD = ("loss", "accuracy", "margin", "head_scores", "pair_scores", "predictor_distance", "nearest_predictor")
PLAIN = ("edge_effects", "circuit", "circuit_quality", "composition", "copying", "ridge_probes", "estimate_error")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(TASK, out=tmp_path_factory.mktemp("intervened") / "run", interventions=GIVE, **SIZES)


def test_with_and_without_stand_side_by_side(run):
    chosen = measure("head_scores", examples=8)
    lines = {flag: trace(run, chosen, interventions=flag) for flag in (False, True, False)}
    under, plain = (lines[flag]["head_scores"].sel(score="previous_token", layer=0, head=1) for flag in (True, False))
    assert under.values[:2] == pytest.approx(1)
    # From step 4 on nothing is given.
    assert np.array_equal(under[2:], plain[2:]) and float(plain.max()) < 0.9
    assert [lines[flag].attrs["interventions"] for flag in (True, False)] == ["with", "without"]
    assert [lines[flag]["head_scores"].attrs["interventions"] for flag in (True, False)] == ["with", "without"]
    folders = {
        path.name.rsplit("seed0", 1)[1] for path in (run.path / "timeline").iterdir() if "head_scores" in path.name
    }
    assert folders == {"", "-intervened"}


def test_a_stored_measurement_is_read_for_its_own_kind_only(run):
    store, chosen = Memory(), measure("loss", examples=8)
    first = trace(run, chosen, store=store, interventions=True)
    known = dict(store.summaries)
    assert trace(run, chosen, store=store, interventions=True).identical(first) and store.summaries == known
    assert not np.array_equal(trace(run, chosen, store=store)["loss"], first["loss"])
    assert len(store.summaries) == 2 * len(known)


def test_the_loss_under_interventions_is_the_one_that_training_logs(run):
    """Two roads: the logged loss of a batch, and the traced loss of the same examples."""
    batch = TASK.training_batch(4, 0, 2)
    import torch

    with torch.no_grad():
        losses = {flag: TASK.loss(run.model(2, interventions=flag)(batch.inputs), batch) for flag in (True, False)}
    logged = float(run.metrics()["loss_repeat"].sel(step=2)) if 2 in run.metrics()["step"] else None
    assert logged is not None
    means = {flag: float(value[batch.scored].mean()) for flag, value in losses.items()}
    assert means[True] == pytest.approx(logged, abs=1e-5) and abs(means[False] - logged) > 1e-4


@pytest.mark.parametrize("name", FORWARD)
def test_measures_that_run_the_model_forward_offer_both(name, run):
    chosen = measure(name, examples=8)
    lines = [trace(run, chosen, steps=[0], store=Memory(), interventions=flag)[name] for flag in (True, False)]
    assert lines[0].shape == lines[1].shape
    assert name in ("accuracy", "nearest_predictor") or not np.array_equal(*lines, equal_nan=True)


@pytest.mark.parametrize("name", PLAIN)
def test_measures_of_the_plain_model_say_so(name, run):
    with pytest.raises(UnsupportedError, match="is run under interventions, take it without them") as error:
        trace(run, name, steps=[0], store=Memory(), interventions=True)
    assert "\n" not in str(error.value)


def test_processes_measure_the_same(run, tmp_path: Path):
    chosen = measure("loss", examples=4)
    alone = trace(run, chosen, store=Memory(), interventions=True)
    assert trace(run, chosen, workers=2, interventions=True).identical(alone)


def test_a_plain_run_has_no_such_measurements(tmp_path: Path):
    plain = train(TASK, out=tmp_path / "run", **SIZES)
    line = trace(plain, measure("loss", examples=4))
    assert "interventions" not in line.attrs and "interventions" not in line["loss"].attrs
    with pytest.raises(ConfigError, match="was trained without interventions: measure the plain model"):
        trace(plain, "loss", interventions=True)
