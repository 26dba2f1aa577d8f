"""Many runs at once: equal to single ones, and one that fails takes no other with it."""

import os
import signal
from pathlib import Path

import pytest

from mechinterp import tasks
from mechinterp.core import Batch, ConfigError, RunError, workers
from mechinterp.training import Job, train, train_jobs, train_many
from mechinterp.training.config import resolve

TINY = dict(n_layers=1, n_heads=2, d_model=8, steps=80, batch_size=2)
TINY |= dict(log_checkpoints=0, linear_checkpoints=10, log_every=10)


def test_failures_are_told_and_lose_no_other_run(task, content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One of three has a folder that is somebody else's, and the process of another is killed."""
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "thesis.tex").touch()
    assign, killed, heard = workers._Pool._assign, [], []

    def assign_and_kill(self, line, process) -> None:
        """Kill it with its job in hand: later it might be done before the signal arrives."""
        assign(self, line, process)
        if self._busy.get(line) == (process, 0) and not killed:
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    monkeypatch.setattr(workers._Pool, "_assign", assign_and_kill)
    with pytest.raises(RunError) as error:
        train_many(task, range(3), tmp_path, workers=2, progress=lambda *where: heard.append(where), **TINY)
    text = str(error.value)
    assert text.startswith("2 of 3 runs failed") and "\n" not in text and "The other 1 are finished" in text
    assert "seed-1 holds other files (thesis.tex) and no Run" in text
    assert "seed-0: its process died (exit code -9)" in text
    assert [where for where in heard if where[0] == "seed-2"] == [("seed-2", step, 80) for step in range(81)]
    (tmp_path / "seed-1" / "thesis.tex").unlink()
    runs = train_many(task, range(3), tmp_path, workers=1, resume=True, **TINY)
    assert [run.seed for run in runs] == [0, 1, 2] and all(run.status == "finished" for run in runs)
    for seed, run in enumerate(runs):
        assert content(run.path) == content(train(task, seed=seed, out=tmp_path / f"alone-{seed}", **TINY).path)


def test_wrong_settings_are_told_before_anything_starts(task, tmp_path: Path):
    with pytest.raises(ConfigError, match="two runs would write to one folder"):
        train_many(task, [1, 1], tmp_path, **TINY)
    with pytest.raises(ConfigError, match="no model or training setting 'layers'"):
        train_many(task, [1], tmp_path, layers=1)
    with pytest.raises(ConfigError, match="workers=0"):
        train_many(task, [1], tmp_path, workers=0, **TINY)
    assert train_many(task, [], tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_a_task_that_cannot_travel(task, tmp_path: Path):
    class Local(tasks.Task):
        name = "local-pool-test"

        def batch(self, batch: int = 64, seed: int = 0) -> Batch:
            return task.batch(batch, seed)

    model, training = resolve(task, overrides=TINY)
    with pytest.raises(ConfigError, match="Local cannot go to another process: define it in a module"):
        train_jobs([Job(Local(), model, training, 0, tmp_path / "run")])
