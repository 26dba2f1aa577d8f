"""Interventions on the command line: `train --intervene`, `trace --interventions`, `twins`; and the page about them."""

import json
import re
from pathlib import Path

import pytest

from mechinterp.cli import run
from mechinterp.training import Run

PAGE = (Path(__file__).parents[2] / "docs" / "training-interventions.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(FILE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
SMALL = "--vocab 16 --seq-len 12 --segment 4 --repeats 2 --layers 1 --heads 2 --d-model 8 --steps 3 --batch-size 2"
TRAIN = ["train", "induction", *SMALL.split()]
GIVE = '[[interventions]]\nkind = "pattern"\nheads = "L0.H0"\nto = "previous-token"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_of_the_page_runs(capsys):
    exec("\n".join(CODE), {})
    assert "2 pairs of runs: pattern against plain training; changed runs measured with" in capsys.readouterr().out
    assert Run("runs/given").config.interventions[1].part == "embed"


def test_the_file_of_the_page_is_read(capsys):
    text = FILE.replace("seeds = 16", "seeds = 1").replace("steps = 700", "steps = 3\nlinear_checkpoints = 3")
    Path("twins.toml").write_text(text + "\n[model]\nd_model = 8\nd_head = 4\n")
    assert run(["twins", "twins.toml", "--workers", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["declared"] == "before the runs" and answer["seeds"] == [0] and answer["interventions"] == "with"
    assert answer["dates"][0]["date"] == "repeat loss below 2 (1)" and answer["dates"][0]["pairs"] == 1
    assert run(["twins", "twins.toml", "--workers", "1"]) == 0
    assert "no pair of 1 in which both came" in " ".join(capsys.readouterr().out.split())


def test_train_and_trace(capsys):
    Path("give.toml").write_text(GIVE)
    Path("both.toml").write_text(f"[training]\nlr = 0.1\n{GIVE}")
    assert run([*TRAIN, "--intervene", "give.toml", "--out", "one"]) == 0
    assert run([*TRAIN, "--config", "both.toml", "--intervene", "give.toml", "--out", "two"]) == 0
    assert len(Run("one").config.interventions) == 1 and len(Run("two").config.interventions) == 2
    assert Run("two").config.training.lr == 0.1
    capsys.readouterr()
    for flags, word, score in ((["--interventions"], "with", 1), ([], "without", None)):
        assert run(["trace", "one", "--measures", "head_scores", "--json", *flags]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["interventions"] == word
        value = answer["measures"]["head_scores"]["values"][0][0][0][0]
        assert (value == pytest.approx(1)) == (score == 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GIVE.replace("pattern", "patern"), "no kind of intervention (1) 'patern'. Did you mean 'pattern'?"),
        (GIVE.replace("H0", "H2"), "intervention 1 (pattern): no heads 'L0.H2': the model has layers 0-0, heads 0-1"),
        (GIVE + "strength = 2", "intervention 1 (pattern): strength=2: Input should be less than or equal to 1"),
        (GIVE.replace("[[", "[").replace("]]", "]"), "write each intervention under a line [[interventions]]"),
        (GIVE + "[model]\nd_model = 3", "it holds tables [[interventions]] and nothing else"),
        ("interventions = [3]", "intervention 1 is a int: give settings, such as kind='pattern'"),
        ('[[interventions]]\nkind = "transplant"\npart = "all"\nrun = "no"', "no is no Run with a checkpoint"),
    ],
)
def test_a_bad_file_is_one_line(text, message, capsys):
    Path("bad.toml").write_text(text)
    assert run([*TRAIN, "--intervene", "bad.toml", "--out", "bad"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mechinterp: ") and message in error
    assert not Path("bad").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "induction"', "", "setting 'task' is missing"),
        ('task = "induction"', 'task = "inductoin"', "no task 'inductoin'. Did you mean 'induction'?"),
        ("seeds = 16", 'seeds = "many"', "seeds='many': Input should be a valid tuple"),
        ('expect = "earlier"', 'expect = "sooner"', "expect='sooner': Input should be 'earlier' or 'later'"),
        ("[[milestones]]", "[milestones]", "milestones="),
        ('name = "repeat loss below 2"', "", "setting 'name' is missing"),
        ("[training]", "[trainin]", "no setting 'trainin'. Did you mean 'training'?"),
    ],
)
def test_a_bad_declaration_is_one_line(old, new, message, capsys):
    Path("bad.toml").write_text(FILE.replace(old, new))
    assert run(["twins", "bad.toml"]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_measures_in_training(capsys):
    flags = ["--measures", "loss,head_scores", "--keep", "last", "--linear-checkpoints", "3", "--log-checkpoints", "0"]
    assert run([*TRAIN, *flags, "--out", "lean"]) == 0
    assert Run("lean").steps == (3,) and list(Run("lean").passed) == [0, 1, 2, 3]
    capsys.readouterr()
    assert run(["trace", "lean", "--measures", "loss", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == [0, 1, 2, 3]
    assert run([*TRAIN, "--keep", "some", "--out", "other"]) == 2
    assert "--keep some: write steps separated by commas, or 'last'" in capsys.readouterr().err
    assert run([*TRAIN, "--measures", "losss", "--out", "other"]) == 2
    assert not Path("other").exists()
