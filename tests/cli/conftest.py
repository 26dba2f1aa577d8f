"""One tiny Run for all tests of the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SIZES = "--vocab 12 --seq-len 12 --segment 3 --repeats 2 --layers 1 --heads 2 --d-model 8 --batch-size 4"
TINY = ["induction", *SIZES.split(), "--log-checkpoints", "2", "--linear-checkpoints", "2"]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """What stands behind `train` for a tiny model, without steps, seed and folder."""
    return TINY


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mechinterp.cli import run

    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(["train", *TINY, "--steps", "6", "--seed", "3", "--out", str(path)]) == 0
    return path


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """The one JSON object that a command prints, and nothing else."""
    from mechinterp.cli import run

    def command(*words: str | Path) -> dict:
        capsys.readouterr()
        assert run([*map(str, words), "--json"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    return command
