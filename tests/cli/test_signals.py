"""SIGTERM ends a command as Ctrl-C does: no child outlives it, and the Run goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mechinterp.training import Run

TRAIN = ["train", "markov", "--steps", "400", "--batch-size", "4", "--seq-len", "12", "--linear-checkpoints", "40"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed in /proc")


def start(*words: str) -> subprocess.Popen[str]:
    code = "import sys; from mechinterp.cli.app import main; main()"
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(one) for one in listed} | {below for one in listed for below in children(int(one))}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float) -> float:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - begin


def test_sigterm_leaves_no_child_and_a_run_that_goes_on_to_the_same_bits(tmp_path: Path):
    out = tmp_path / "stopped"
    seeds = ["--seeds", "2", "--workers", "2", "--out"]
    command = start(*TRAIN, *seeds, str(out))
    folders = [out / f"seed-{seed}" for seed in (0, 1)]
    wait_for(lambda: all(len(list((one / "checkpoints").glob("*"))) > 2 for one in folders), 120)
    below = children(command.pid)
    assert len(below) >= 2
    os.kill(command.pid, signal.SIGTERM)
    assert wait_for(lambda: command.poll() is not None and not any(map(alive, below)), 10) < 5
    _, errors = command.communicate()
    assert command.returncode == 143
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert errors.strip().splitlines()[-1].startswith("mechinterp: stopped by SIGTERM; finished parts are kept")
    assert {Run(one).status for one in folders} == {"interrupted"}
    assert all(Run(one).steps[-1] < 400 for one in folders)

    again = start(*TRAIN, *seeds, str(out), "--resume")
    other = start(*TRAIN, *seeds, str(tmp_path / "whole"))
    assert again.wait(180) == other.wait(180) == 0
    for folder in folders:
        whole = Run(tmp_path / "whole" / folder.name)
        assert Run(folder).status == "finished"
        assert [Run(folder).weights_hash(step) for step in whole.steps] == [whole.weights_hash(s) for s in whole.steps]
