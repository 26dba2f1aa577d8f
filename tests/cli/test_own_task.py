"""The page about a task of the user's: its code is run, its commands are run, and its Run runs no code when opened."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from mechinterp import tasks
from mechinterp.cli import run
from mechinterp.core import UnsupportedError
from mechinterp.training import Run

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-task.md").read_text(encoding="utf-8")
TASK, SHIP = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(CLAIMS,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
CHECK, TRAIN, TRACE, REPORT, VERIFY, RETRAIN = (
    shlex.split(line)[1:] for line in re.findall(r"^\$ (mechinterp .*)$", PAGE, re.MULTILINE)
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the page's task, trained, in which commands run."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_tasks.py").write_text(TASK)
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*TRAIN, "--log-checkpoints", "3", "--linear-checkpoints", "3"]) == 0
        yield folder
    sys.path[:] = path
    sys.modules.pop("my_tasks")
    tasks.base._REGISTRY.pop("reverse")


def test_the_task_keeps_the_contract(here, capsys):
    assert run(CHECK) == 0
    assert "letter, answer" in capsys.readouterr().out


def test_the_commands_of_the_page_work(here, capsys):
    assert run(TRACE) == 0
    assert run([*REPORT, "--seed", "1"]) == 0
    assert (here / "runs" / "reverse" / "report.html").stat().st_size > 100_000
    exec(SHIP, {})
    (here / "circuits" / "reverse" / "claims.toml").write_text(CLAIMS)
    assert run(VERIFY) == 0
    assert "writes-backwards" in capsys.readouterr().out
    assert RETRAIN[: len(VERIFY)] == VERIFY


def test_a_run_alone_runs_no_code(here, monkeypatch, capsys):
    monkeypatch.delitem(tasks.base._REGISTRY, "reverse")
    opened = Run(here / "runs" / "reverse")
    assert opened.model().config.n_layers == 2
    with pytest.raises(UnsupportedError, match="not known here"):
        _ = opened.task
    assert run(TRACE[:2]) == 2
    assert "--task FILE.py:CLASS" in capsys.readouterr().err


def test_a_misspelt_setting_of_the_task_is_named(here, capsys):
    assert run(["train", "my_tasks.py:Reverse", "--leters", "3"]) == 2
    assert "Did you mean --letters" in capsys.readouterr().err
