"""Jobs in processes: outcomes in order, failures told, a death costs one job and may be tried again."""

import importlib
import sys
from pathlib import Path

import pytest

from mechinterp.core import ConfigError, RunError
from mechinterp.core.workers import LocalProcesses

WORK = """
import os, signal
from pathlib import Path
from mechinterp.core import RunError

class Unreadable:
    def __reduce__(self):
        return int, ("no number",)

def work(job, progress):
    kind, content = job
    progress(1, 2)
    if kind == "no pickle":
        return lambda: content
    if kind == "unreadable":
        return Unreadable()
    if kind == "ours":
        raise RunError(content)
    if kind == "other":
        raise ValueError(content)
    if kind == "die" or (kind == "die once" and not Path(content).exists()):
        Path(content).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return content
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function of a module that other processes can import."""
    (tmp_path / "work_in_processes.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_in_processes").work
    del sys.modules["work_in_processes"]


def test_outcomes_are_in_order_and_say_why_there_is_no_value(work):
    progress, ends = [], []
    jobs = [("fine", 7), ("ours", "no such run"), ("other", "odd"), ("fine", 8)]
    outcomes = LocalProcesses(2).run(work, jobs, lambda *where: progress.append(where), ends.append)
    assert [outcome.value for outcome in outcomes] == [7, None, None, 8]
    assert [outcome.failure for outcome in outcomes] == ["", "no such run", "ValueError: odd", ""]
    assert isinstance(outcomes[1].error, RunError) and outcomes[2].error is None
    assert sorted(progress) == [(number, 1, 2) for number in range(4)] and sorted(ends) == [0, 1, 2, 3]
    assert outcomes[0].result == 7
    for outcome, says in ((outcomes[1], "no such run"), (outcomes[2], "ValueError: odd")):
        with pytest.raises(RunError, match=says):
            _ = outcome.result


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no pickle", "its result cannot go to another process: "),
        ("unreadable", "the result cannot be read in another"),
    ],
)
def test_a_result_that_cannot_travel_is_a_failure_of_its_job(work, capfd: pytest.CaptureFixture[str], kind, says):
    outcomes = LocalProcesses(1).run(work, [(kind, 1), ("fine", 7)])
    assert outcomes[0].failure.startswith(says) and "\n" not in outcomes[0].failure and not outcomes[0].died
    assert outcomes[1].result == 7 and "Traceback" not in capfd.readouterr().err


def test_a_process_that_dies_takes_its_own_job_and_no_other(work, tmp_path: Path):
    outcomes = LocalProcesses(1).run(work, [("die", str(tmp_path / "a")), ("fine", 7)])
    assert outcomes[0].died and outcomes[0].failure == "its process died (exit code -9)" and outcomes[1].value == 7


def test_a_job_whose_process_died_is_tried_again(work, tmp_path: Path):
    once, always = str(tmp_path / "once"), str(tmp_path / "always")
    outcomes = LocalProcesses(2, retries=1).run(work, [("die once", once), ("die", always)])
    assert outcomes[0].value == once and outcomes[1].died


def test_at_least_one_process():
    with pytest.raises(ConfigError, match="workers=0"):
        LocalProcesses(0)
