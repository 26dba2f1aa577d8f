"""Measures taken in training: the bytes of a trace afterwards, without the weights, and after a crash."""

from pathlib import Path

import numpy as np
import pytest

import mechinterp as mi
from mechinterp.core import ConfigError, RunError
from mechinterp.measures import measure
from mechinterp.tasks import Induction
from mechinterp.timeline import Memory, trace, train
from mechinterp.timeline.store import interventions_of
from mechinterp.training import Run, files

TASK = Induction(vocab=16, seq_len=12, segment=4, repeats=2)
SIZES = dict(n_layers=2, n_heads=2, d_model=8, steps=6, batch_size=4, log_checkpoints=0, linear_checkpoints=3)
MEASURES = [measure("loss", examples=8), measure("edge_effects", examples=4), measure("head_scores", examples=4)]
GIVE = [dict(kind="pattern", heads="L0.H1", to="previous-token", start=1)]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    class QuickOs:
        def __getattr__(self, name):
            return (lambda handle: None) if name == "fsync" else getattr(os, name)

    monkeypatch.setattr(files, "os", QuickOs())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_measured_in_training_it_has_the_bytes_of_a_trace_afterwards(tmp_path: Path):
    grown = train(TASK, out=tmp_path / "grown", measures=MEASURES, **SIZES)
    after = train(TASK, out=tmp_path / "after", **SIZES)
    trace(after, MEASURES)
    assert content(grown.path) == content(after.path)


def test_weights_need_not_be_kept(tmp_path: Path):
    whole = train(TASK, out=tmp_path / "whole", **SIZES)
    wanted = trace(whole, MEASURES)
    lean = train(TASK, out=tmp_path / "lean", measures=MEASURES, keep=[2], **SIZES)
    assert lean.steps == (2, 6) and list(lean.passed) == [0, 2, 4, 6]
    line = trace(lean, MEASURES)
    assert line["step"].values.tolist() == [0, 2, 4, 6] and line.attrs["left_out"] == 0
    assert line.assign_attrs(run="").identical(wanted.assign_attrs(run=""))
    folders = [content(run.path / "timeline") for run in (whole, lean)]
    assert folders[0] == folders[1]
    assert [lean.weights_hash(step) for step in (0, 2, 4, 6)] == [whole.weights_hash(step) for step in (0, 2, 4, 6)]
    with pytest.raises(RunError, match="did not keep the weights of step 4: there are 2, from 2 to 6"):
        lean.model(4)
    with pytest.raises(RunError, match="did not keep the weights of step 0"):
        trace(lean, "accuracy")
    assert trace(lean, "accuracy", steps=lean.steps)["step"].values.tolist() == [2, 6]


def test_a_role_that_is_found_later_leaves_earlier_measurements_as_they_are(tmp_path: Path):
    role = [dict(kind="pattern", heads=dict(role="previous_token"), to="previous-token", start=3)]
    run = train(TASK, out=tmp_path / "run", measures=MEASURES[:1], measure_interventions=True, keep=[],
                interventions=role, **SIZES)  # fmt: skip
    assert run.config.resolutions[0].heads
    assert trace(run, MEASURES[0], interventions=True)["step"].values.tolist() == [0, 2, 4, 6]
    assert interventions_of(run, 0) == interventions_of(run, 2) != interventions_of(run, 3)


def test_only_the_last_weights(tmp_path: Path):
    run = train(TASK, out=tmp_path / "run", keep=[], **SIZES)
    assert run.steps == (6,) and run.config.keep == ()
    with pytest.raises(RunError, match=r"keep is \[\] in the folder and None now"):
        train(TASK, out=run.path, resume=True, **SIZES)
    with pytest.raises(ConfigError, match="keep: step 3 is no checkpoint of these settings: there are 4, from 0 to 6"):
        train(TASK, out=tmp_path / "other", keep=[3], **SIZES)


@pytest.mark.parametrize("keep", [None, [2]])
def test_a_killed_training_measures_on_to_the_same_bytes(keep, tmp_path: Path):
    how = {**SIZES, "measures": MEASURES[0], "keep": keep, "interventions": GIVE, "measure_interventions": None}
    wanted = content(train(TASK, out=tmp_path / "whole", **how).path)
    assert sum(name.startswith("timeline") for name in wanted) == 8

    def stop(step: int, steps: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    for last in range(7):
        folder = tmp_path / str(last)
        with pytest.raises(KeyboardInterrupt):
            train(TASK, out=folder, progress=stop, **how)
        train(TASK, out=folder, resume=True, **how)
        assert content(folder) == wanted, f"stopped at step {last}"


def test_what_is_lost_between_a_checkpoint_and_its_measure_is_measured_on_going_on(tmp_path: Path):
    how = {**SIZES, "measures": MEASURES[0], "keep": []}
    wanted = content(train(TASK, out=tmp_path / "whole", **how).path)

    def stop(step: int, steps: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(TASK, out=folder, progress=stop, **how)
    (lost,) = folder.glob("timeline/*/00000004.nc")
    lost.unlink()
    train(TASK, out=folder, resume=True, **how)
    assert content(folder) == wanted


def test_a_run_is_traced_while_it_trains(tmp_path: Path):
    """At each checkpoint another reader opens the Run; it measures what is new, and reads the rest."""
    seen, store = [], Memory()

    def look(step: int, steps: int) -> None:
        run = Run(tmp_path / "run")
        if run.steps:
            seen.append(trace(run, MEASURES[0], store=store))

    run = train(TASK, out=tmp_path / "run", progress=look, **SIZES)
    assert [line.sizes["step"] for line in seen] == [1, 1, 2, 2, 3, 3, 4]
    final = trace(run, MEASURES[0])
    assert final.identical(seen[-1])
    for line in seen:
        assert np.array_equal(line["loss"], final["loss"].sel(step=line["step"]))


def test_measuring_changes_no_bit_of_the_training(tmp_path: Path):
    plain = mi.training.train(TASK, out=tmp_path / "plain", **SIZES)
    grown = mi.train(TASK, out=tmp_path / "grown", measures=MEASURES, **SIZES)
    assert {name: data for name, data in content(grown.path).items() if not name.startswith("timeline")} == content(
        plain.path
    )
