"""A run that dies anywhere and is continued ends in the same bytes as one that never died."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from mechinterp.core import RunError
from mechinterp.training import Run, files, train

WATCHED = ("open", "write", "fsync", "replace", "truncate", "makedirs")


class PowerCut(BaseException):
    """No code of ours may catch this."""


class FailingOs:
    """`os`, until the call with number `at`: from then on every call that changes files fails.

    Args:
        at: Number of the call, from 0.
        how: `before` the call does anything, `after` it did, `torn` (a write writes half), or `full`: this one call
            raises OSError, and later ones work.
    """

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.names = at, how, []

    def __getattr__(self, name: str):
        real = getattr(os, name) if name != "fsync" else lambda handle: None
        if name not in WATCHED:
            return real

        def call(*args, **kwargs):
            number = len(self.names)
            self.names.append(name)
            if number < self.at or (number > self.at and self.how == "full"):
                return real(*args, **kwargs)
            if number == self.at:
                if self.how == "full":
                    raise OSError(28, "No space left on device")
                if self.how == "torn" and name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                if self.how == "after":
                    real(*args, **kwargs)
            raise PowerCut

        return call


SEVERAL = (
    dict(kind="pattern", heads="L0.H0", to="previous-token", strength=0.5),
    dict(kind="keep", heads={"role": "previous_token", "examples": 4}, fork="k", start=1),
    dict(kind="reinitialise", part="L0.H1", start=2),
    dict(kind="freeze", part="head", heads={"role": "induction", "examples": 4}, start=3),
    dict(kind="change", training={"lr": 0.02, "data_seed": 5}, start=3),
)
"""Interventions that begin at a checkpoint and between two, and that must be continued from more than the weights."""


@pytest.mark.parametrize("interventions", [(), SEVERAL], ids=["plain", "interventions"])
@pytest.mark.parametrize("how", ["before", "after", "torn", "full"])
def test_a_fault_at_every_write(
    how, interventions, tiny_train, tiny_run, content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def train_on(disk: FailingOs, folder: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", disk)
            tiny_train(folder, interventions=interventions)

    sound = FailingOs(-1, "full")
    train_on(sound, tmp_path / "sound")
    wanted = content(tmp_path / "sound")
    assert (wanted == content(tiny_run.path)) == (not interventions)
    # run.json twice, 3 checkpoints and 3 states are written and renamed; 5 lines of metrics are appended. Two roles are
    # found on the way, and written to run.json.
    extra = 2 if interventions else 0
    assert sound.names.count("replace") == 8 + extra and sound.names.count("write") == 13 + extra
    # After any other call is before the next one.
    chosen = {"after": ("replace", "makedirs"), "torn": ("write",)}.get(how, WATCHED)
    for at, name in enumerate(sound.names):
        if name not in chosen:
            continue
        folder = tmp_path / str(at)
        error, text = (RunError, "No space left") if how == "full" else (PowerCut, None)
        with pytest.raises(error, match=text):
            train_on(FailingOs(at, how), folder)
        tiny_train(folder, resume=True, interventions=interventions)
        assert content(folder) == wanted, f"{how} call {at} ({name})"


def test_a_crash_while_continuing(tiny_train, tiny_run, content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The continued run heals the metrics' torn line by cutting it off: that call may die too."""
    wanted, folder = content(tiny_run.path), tmp_path / "run"
    for at in (60, 3, 5, 9, 13):
        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(files, "os", FailingOs(at, "torn"))
            tiny_train(folder, resume=True)
        with (folder / "metrics.jsonl").open("ab") as torn:
            torn.write(b'{"step": 4, "lo')
        assert Run(folder).metrics().sizes["step"] <= 5
    tiny_train(folder, resume=True)
    assert content(folder) == wanted


LATE = [dict(one, start=47 * number) for number, one in enumerate(SEVERAL)]


@pytest.mark.parametrize(
    ("sent", "interventions"),
    [(signal.SIGKILL, ()), (signal.SIGKILL, LATE), (signal.SIGTERM, LATE)],
    ids=["kill", "kill, interventions", "terminate, interventions"],
)
def test_five_times_killed(sent, interventions, task, content, tmp_path: Path):
    settings = dict(n_layers=1, n_heads=2, d_model=8, steps=200, batch_size=4, interventions=interventions)
    settings |= dict(log_checkpoints=8, linear_checkpoints=40, log_every=3)
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    train(task, out=whole, **settings)
    context = multiprocessing.get_context("forkserver")
    # The second is what torch loads when the first optimiser is made; so each process is at work at once.
    context.set_forkserver_preload(["mechinterp.training", "torch._dynamo"])
    chance = random.Random(0)
    killed = []
    for goal in (1, 9, 18, 27, 36):
        process = context.Process(target=train, args=(task,), kwargs=dict(out=folder, resume=True, **settings))
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and len(list(folder.glob("checkpoints/*.safetensors"))) < goal:
            assert time.monotonic() < deadline
            time.sleep(5e-4)
        time.sleep(chance.uniform(0, 0.01))
        os.kill(process.pid, sent)
        process.join()
        assert process.exitcode == -sent
        killed.append(Run(folder).steps[-1])
        assert Run(folder).status == "running"
    assert killed == sorted(killed) and killed[-1] < 200
    assert train(task, out=folder, resume=True, **settings).status == "finished"
    assert content(folder) == content(whole)


def test_two_writers_exclude_each_other(tiny_train, tmp_path: Path):
    with files.locked(tmp_path), pytest.raises(RunError, match="another process is writing to this Run"):
        tiny_train(tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []
    tiny_train(tmp_path)


def test_an_error_in_the_loop_leaves_a_run_to_continue(tiny_train, tiny_run, content, tmp_path: Path):
    def stop(step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path / "run", progress=stop)
    assert Run(tmp_path / "run").status == "interrupted" and Run(tmp_path / "run").steps == (0, 2)
    tiny_train(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(tiny_run.path)
