"""Run: what opens, what is refused in one line, and that nothing is changed by it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mechinterp import tasks
from mechinterp.core import Batch, ConfigError, RunError, UnsupportedError
from mechinterp.models import ModelConfig, Transformer
from mechinterp.training import Run
from mechinterp.training.run import build_model


@pytest.fixture
def copy(tiny_run, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(tiny_run.path, tmp_path / "copy"))


def half_done(folder: Path) -> Path:
    """The folder as a process leaves it that was killed after step 2."""
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    return folder


def test_opening(task, tiny_run):
    run = Run(tiny_run.path)
    assert (run.status, run.seed, run.steps, run.task) == ("finished", 0, (0, 2, 4), task)
    assert run.config.training is not None and run.config.training.steps == 4
    assert run.config.model is not None and run.config.model.d_model == 8
    assert repr(run).endswith("run', induction, finished, 3 checkpoints to step 4)")
    assert run.weights_hash() == run.weights_hash(4) != run.weights_hash(2)
    first = Transformer(run.config.model)
    first.load_state_dict(run.weights(0))
    tokens = task.batch(2).inputs
    assert torch.equal(first(tokens), run.model(0)(tokens)) and not torch.equal(first(tokens), run.model()(tokens))


def test_a_folder_has_no_pickle(tiny_run):
    names = {path.suffix for path in tiny_run.path.rglob("*") if path.is_file()}
    assert names == {".json", ".jsonl", ".safetensors"}


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "foreign", "other step"])
def test_damaged_checkpoint(copy: Path, content, how: str):
    path = copy / "checkpoints" / "00000002.safetensors"
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[-5] ^= 1
    if how == "foreign":
        save_file({"x": torch.zeros(2)}, path)
        data = bytearray(path.read_bytes())
    if how == "other step":
        data = bytearray((copy / "checkpoints" / "00000004.safetensors").read_bytes())
    path.write_bytes({"cut": data[:-7], "empty": b""}.get(how, data))
    text = {"foreign": "not written by mechinterp", "other step": "of step 4, not of step 2"}.get(how, "is damaged")
    before = content(copy)
    with pytest.raises(RunError, match=text) as error:
        Run(copy).model(2)
    assert "\n" not in str(error.value) and "00000002.safetensors" in str(error.value)
    Run(copy).model(4)
    assert content(copy) == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("state.safetensors", lambda data: data[:-9], "state.safetensors is damaged"),
        ("state.safetensors", lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:], "does not fit its hash"),
        ("state.safetensors", lambda data: None, "state.safetensors is missing"),
        ("checkpoints/00000002.safetensors", lambda data: data[:50], "00000002.safetensors is damaged"),
        ("checkpoints/00000002.safetensors", lambda data: None, "has no checkpoint at step 2"),
        ("metrics.jsonl", lambda data: data[:-30], "metrics.jsonl is damaged: .* bytes of whole lines"),
        ("metrics.jsonl", lambda data: b"x" + data[1:], "metrics.jsonl in line 1 is damaged"),
        ("metrics.jsonl", lambda data: None, "metrics.jsonl is damaged"),
        ("run.json", lambda data: data[:-9], "run.json is damaged"),
        ("run.json", lambda data: b"[]", "run.json does not hold names with values"),
        ("run.json", lambda data: b"{}", "states no format"),
        ("run.json", lambda data: b"[" * 100_000, "run.json is damaged: it is nested too deeply"),
        ("run.json", lambda data: data.replace(b'"seed": 0', b'"seed": ' + b"9" * 400), "seed is an integer of more"),
        (
            "run.json",
            lambda data: data.replace(b'"format": 1', b'"format": 7'),
            "format 7, this version reads format 1",
        ),
        ("run.json", lambda data: data.replace(b'"n_layers"', b'"layers"'), "does not fit this version: .*layers"),
        ("run.json", lambda data: data.replace(b'"torch": "2', b'"torch": "1'), "versions.torch is '1.* and '2"),
        ("run.json", lambda data: None, "holds other files .* and no Run"),
    ],
)
def test_damage_is_one_error_and_resume_changes_nothing(copy: Path, content, tiny_train, name, change, message):
    path = half_done(copy) / name
    data = change(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    before = content(copy)
    with pytest.raises(RunError, match=message) as error:
        tiny_train(copy, resume=True)
    assert "\n" not in str(error.value) and content(copy) == before


SIZES = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "d_vocab_out", "readout_layers")


@pytest.mark.parametrize("name", [*SIZES, "n_ctx"])
def test_sizes_beyond_the_checkpoint_are_refused_before_anything_is_built(copy: Path, name: str):
    path = copy / "run.json"
    record = json.loads(path.read_text())
    record["model"][name] = 10**9
    path.write_text(json.dumps(record))
    # Rotary positions have no weights to compare with, and tables that no memory holds.
    error, says = (
        (ConfigError, "GB of memory") if name == "n_ctx" else (RunError, "fit the model: it holds [0-9,]+ num")
    )
    with pytest.raises(error, match=says) as caught:
        Run(copy).model()
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_or_type(copy: Path):
    path = copy / "run.json"
    path.write_text(path.read_text().replace('"d_vocab": 16', '"d_vocab": 15'))
    with pytest.raises(RunError, match=r"00000004.safetensors does not fit the model: .*size mismatch") as caught:
        Run(copy).model()
    assert "\n" not in str(caught.value)
    config = ModelConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=4, n_ctx=4)
    weights = Transformer(config).state_dict()
    assert build_model(config, {name: value.half() for name, value in weights.items()}, "half").W_E.dtype == torch.float
    with pytest.raises(RunError, match=r"'embed.W_E' is of type torch.int32"):
        build_model(config, {**weights, "embed.W_E": weights["embed.W_E"].int()}, "file")


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling"])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "state.safetensors", "checkpoints/00000004.safetensors"])
def test_what_is_no_file_is_not_waited_for(copy: Path, tiny_train, kind: str, name: str):
    path = half_done(copy) / name
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "dangling": lambda: path.symlink_to("nothing")}[kind]()
    with pytest.raises(RunError) as caught:
        tiny_train(copy, resume=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_a_file_whose_name_is_its_step(copy: Path):
    for name in ("\u0660" * 7 + "\u0663", "000000002", "0000003"):  # ARABIC-INDIC DIGITS; a zero too many, too few
        (copy / "checkpoints" / f"{name}.safetensors").touch()
    (copy / "checkpoints" / "00000040.safetensors").symlink_to("nothing")
    assert Run(copy).steps == (0, 2, 4)
    with pytest.raises(RunError, match="no checkpoint at step 40: there are 3, from 0 to 4; the nearest is 4"):
        Run(copy).model(40)


def test_places_that_hold_no_run(tmp_path: Path, tiny_train):
    with pytest.raises(RunError, match="does not exist"):
        Run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is no Run"):
        Run(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"holds other files \(thesis\.tex\) and no Run"):
            tiny_train(tmp_path, resume=resume)
    with pytest.raises(RunError, match="is a file, a Run is a folder"):
        tiny_train(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_steps_that_are_not_there(tiny_run):
    with pytest.raises(RunError, match="no checkpoint at step 3: there are 3, from 0 to 4; the nearest is 2"):
        tiny_run.model(3)


def test_metrics_with_a_torn_end_and_a_hole(copy: Path):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": null, "more": 2.5}\n{"step": 6, "lo')
    metrics = Run(copy).metrics()
    assert metrics["step"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(metrics["loss"][-1]) and float(metrics["more"][-1]) == 2.5 and np.isnan(metrics["more"][:5]).all()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[" * 100_000, "is damaged: it is nested too deeply"),
        ('{"loss": 1.0}', "is damaged: no step"),
        ('{"step": "0"}', "is damaged: no step"),
        ('{"step": 0, "loss": "low"}', "is damaged: loss is no number"),
        ('{"step": 0, "loss": 1' + "0" * 400 + "}", "is damaged: loss is no number"),
    ],
)
def test_a_damaged_line_of_metrics(copy: Path, line: str, says: str):
    path = copy / "metrics.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunError, match=f"metrics.jsonl in line 1 {says}"):
        Run(copy).metrics()


def test_a_task_of_somebodys_own(copy: Path, task):
    path = copy / "run.json"
    path.write_text(path.read_text().replace('"name": "induction"', '"name": "from-a-far-country"'))
    run = Run(copy)
    assert run.steps == (0, 2, 4) and run.metrics().sizes["step"] == 5
    run.model()
    with pytest.raises(UnsupportedError, match=r"'from-a-far-country', which is not known here: .* Run\(path, task="):
        _ = run.task
    with pytest.raises(RunError, match="was trained on"):
        Run(copy, task)

    class Far(tasks.Task):
        """Has one setting that is newer than the Run."""

        name = "from-a-far-country"
        vocab: int
        seq_len: int
        flavour: str
        segment: int
        repeats: int
        min_gap: int
        max_gap: int | None
        replace: bool
        symbols: int
        restart: float
        newer: int = 5

        def batch(self, batch: int = 64, seed: int = 0) -> Batch:
            raise NotImplementedError

    known = {name: value for name, value in task.to_dict().items() if name != "name"}
    assert Run(copy, Far(**known)).task == Far(**known) == Run(copy).task
    with pytest.raises(RunError, match="was trained on"):
        Run(copy, Far(**{**known, "vocab": 3}))


def test_checkpoints_from_elsewhere(task, tmp_path: Path):
    config = ModelConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=16, n_ctx=12)
    paths = {}
    for step in (30, 10):
        paths[step] = tmp_path / "theirs" / f"model-{step}.safetensors"
        paths[step].parent.mkdir(exist_ok=True)
        save_file(Transformer(config, seed=step).state_dict(), paths[step])

    def load(path: Path) -> Transformer:
        from safetensors.torch import load_file

        model = Transformer(config)
        model.load_state_dict(load_file(path))
        return model

    run = Run.from_checkpoints(paths, load, task)
    tokens = task.batch(2).inputs
    assert run.steps == (10, 30) and run.task is task and run.status == "finished"
    assert run.path == tmp_path / "theirs" / "mechinterp" and not run.path.exists()
    assert torch.equal(run.model(10)(tokens), Transformer(config, seed=10)(tokens))
    assert run.weights_hash(10) != run.weights_hash() == run.weights_hash(30)
    assert run.metrics().sizes["step"] == 0
    with pytest.raises(RunError, match="no checkpoint at step 20"):
        run.model(20)
    with pytest.raises(RunError, match=r"gone does not exist"):
        Run.from_checkpoints({1: tmp_path / "gone"}, load)
    with pytest.raises(UnsupportedError, match="records no task"):
        _ = Run.from_checkpoints(paths, load).task
