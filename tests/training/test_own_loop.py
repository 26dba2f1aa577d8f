"""The page about a loop of the user's: its code and its command are run, also after a crash."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import mechinterp as mi
from mechinterp.cli import run as cli

PAGE = (Path(__file__).parents[2] / "docs" / "nouns" / "run.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(LOOP,) = (block for block in BLOCKS if "# my_loop.py" in block)
(OTHER,) = (block for block in BLOCKS if "# another module" in block)
(TRACE,) = (shlex.split(line)[1:] for line in re.findall(r"^\$ (mechinterp trace .*)$", PAGE, re.MULTILINE))
CALL = "        rec(step, loss=loss)\n"


def hashes(folder: str) -> list[str]:
    run = mi.Run(folder)
    return [run.weights_hash(step) for step in run.steps]


def test_the_loop_writes_a_run_that_the_command_line_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(LOOP, {})
    run = mi.Run("runs/mine")
    assert run.steps == (0, 10, 20, 30, 40) and run.status == "finished"
    logged = run.metrics()
    assert logged["step"].values.tolist() == list(range(0, 41, 5))
    assert float(logged["loss"][-1]) < float(logged["loss"][0]) - 0.1
    assert cli(TRACE) == 0
    assert "edge_effects" in capsys.readouterr().out
    # Where it is finished, the same program changes nothing.
    before = hashes("runs/mine")
    exec(LOOP, {})
    assert hashes("runs/mine") == before


@pytest.mark.parametrize("step", [0, 13, 30])
def test_a_loop_that_dies_ends_in_the_same_bits(tmp_path, monkeypatch, step):
    assert CALL in LOOP
    monkeypatch.chdir(tmp_path)
    exec(LOOP, {})
    whole = hashes("runs/mine")
    (tmp_path / "dies").mkdir()
    monkeypatch.chdir(tmp_path / "dies")
    with pytest.raises(KeyboardInterrupt):
        exec(LOOP.replace(CALL, f"{CALL}        if step == {step}: raise KeyboardInterrupt\n"), {})
    assert mi.Run("runs/mine").status == "interrupted"
    exec(LOOP, {})
    assert hashes("runs/mine") == whole


def test_another_module_is_measured_by_its_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = mi.tasks.Induction(vocab=32, seq_len=32, segment=8)
    model = torch.nn.Sequential(torch.nn.Embedding(32, 16), torch.nn.Linear(16, 32))
    with mi.Recorder("runs/theirs", model, task) as rec:
        rec(0)
    names = {"mi": mi, "torch": torch}
    exec(OTHER, names)
    assert torch.equal(names["run"].model()[0].weight, model[0].weight)
    assert float(names["line"]["loss"].sel(group="repeat").isel(step=0)) > 2
