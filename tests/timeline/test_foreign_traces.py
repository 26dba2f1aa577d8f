"""Traces of checkpoints that another program wrote: one model at a time, none for a second look, and a door for all."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_layout import STEPS, lay_cache, lay_folder
from safetensors.torch import load_file, save_file

import mechinterp as mi
from mechinterp.cli import run as cli
from mechinterp.core.digest import code_digest
from mechinterp.models import Transformer
from mechinterp.timeline.processes import Share, trace_share
from mechinterp.training.hub import HubCheckpoints

TASK = {"vocab": 30, "seq_len": 20, "segment": 5, "repeats": 2}
MEASURES = ["loss", "head_scores", mi.measure("edge_estimates", examples=4, steps=2)]


@pytest.fixture
def run(tmp_path):
    """Five steps in a plain folder; the models know more tokens than the task draws."""
    folder = lay_folder(tmp_path / "theirs")
    revisions = {step: f"checkpoint-{step}" for step in STEPS}
    return mi.Run.from_hf(folder, revisions, mi.tasks.Induction(**TASK), tmp_path / "run")


@pytest.fixture
def made(monkeypatch):
    """Steps whose model was made."""
    steps = []
    real = HubCheckpoints.model
    monkeypatch.setattr(HubCheckpoints, "model", lambda self, step: (steps.append(step), real(self, step))[1])
    return steps


def test_a_second_look_makes_no_model(run, made):
    first = mi.trace(run, MEASURES)
    assert made == list(STEPS)
    assert mi.trace(mi.Run(run.path), MEASURES).identical(first)
    assert made == list(STEPS)
    # A file that changed names other weights, and these alone are measured.
    other = run.config.source.folder / "checkpoint-16" / "model.safetensors"
    other.write_bytes((run.config.source.folder / "checkpoint-512" / "model.safetensors").read_bytes())
    third = mi.trace(mi.Run(run.path), MEASURES)
    assert made == [*STEPS, 16]
    np.testing.assert_array_equal(third["loss"].sel(step=16), first["loss"].sel(step=512))


def test_values_are_those_of_the_single_models(run):
    line = mi.trace(run, MEASURES)
    assert line["edge_estimates"].dims == ("step", "edge")
    for step in (0, 1000):
        one = MEASURES[2](run.model(step), run.task, 0)
        np.testing.assert_allclose(line["edge_estimates"].sel(step=step), one.mean("example"), rtol=0, atol=1e-6)
    assert float(np.ptp(line["edge_estimates"].values, axis=0).max()) > 1e-3  # the checkpoints differ


def test_one_model_is_alive_at_a_time(run, monkeypatch):
    """Counted without the cyclic collector, which would only hide what holds on to a model."""
    alive: weakref.WeakSet = weakref.WeakSet()
    before = []
    real = HubCheckpoints.model

    def counted(self, step):
        before.append(len(alive))
        model = real(self, step)
        alive.add(model)
        return model

    monkeypatch.setattr(HubCheckpoints, "model", counted)
    gc.disable()
    try:
        mi.trace(run, MEASURES)
    finally:
        gc.enable()
    assert before == [0] * 5 and not alive


def test_a_process_opens_the_run_by_its_folder(run, made):
    """What `workers=` hands to each process."""
    share = Share(run.path, run.task, (), {"loss": ("loss", {})}, (0, 16), 0, None, False, False)
    assert trace_share(share, lambda done, total: None) == 2 and made == [0, 16]
    line = mi.trace(run, ["loss"])
    assert made == [0, 16, 1, 512, 1000]
    assert line.identical(mi.trace(run, ["loss"], store=mi.timeline.Memory()))


class TestOwnLoaders:
    """`Run.from_checkpoints` over files and over folders in the hub's format."""

    def test_folders_in_the_format_of_the_hub(self, tmp_path, run):
        from transformers import AutoModelForCausalLM

        paths = {step: tmp_path / "theirs" / f"checkpoint-{step}" for step in STEPS}
        own = mi.Run.from_checkpoints(
            paths, lambda path: mi.from_hf(AutoModelForCausalLM.from_pretrained(path)), run.task
        )
        mine, theirs = mi.trace(own, ["loss"]), mi.trace(run, ["loss"])
        assert own.path == tmp_path / "theirs" / "mechinterp"
        np.testing.assert_array_equal(mine["loss"], theirs["loss"])

    def test_files_beside_a_configuration(self, tmp_path):
        config = mi.ModelConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=30, n_ctx=20)
        (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
        for step in (1, 2):
            save_file(Transformer(config, seed=step).state_dict(), tmp_path / f"{step}.safetensors")
        calls = []

        def load(path: Path) -> Transformer:
            calls.append(path.name)
            settings = json.loads((path.parent / "config.json").read_text())
            model = Transformer(mi.ModelConfig(**settings))
            model.load_state_dict(load_file(path))
            return model

        def opened() -> mi.Run:
            paths = {step: tmp_path / f"{step}.safetensors" for step in (1, 2)}
            return mi.Run.from_checkpoints(paths, load, mi.tasks.Induction(**TASK))

        first = mi.trace(opened(), ["loss"])
        calls_of_the_first = list(calls)
        again = mi.trace(opened(), ["loss"])
        assert calls_of_the_first == ["1.safetensors", "2.safetensors"]
        np.testing.assert_array_equal(first["loss"], again["loss"])

    def test_another_loader_names_other_weights(self, tmp_path):
        file = tmp_path / "1.pt"
        file.write_bytes(b"weights")

        def reading(scale):
            return lambda path: torch.nn.Linear(1, scale)

        def name(loader):
            return mi.Run.from_checkpoints({1: file}, loader).weights_hash()

        assert name(reading(2)) == name(reading(2)) != name(reading(3))
        assert code_digest(torch.nn.Linear) == code_digest(torch.nn.Linear) != code_digest(torch.nn.Conv1d)


def test_the_command_line_reaches_a_cache(tmp_path, monkeypatch, capsys):
    """Nothing but the folder is named: it records where the checkpoints lie."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = lay_cache(tmp_path / "hub", steps=(0, 1000))
    revisions = {step: f"step{step}" for step in (0, 1000)}
    task = mi.tasks.Induction(**TASK)
    run = mi.Run.from_hf("owner/tiny-neox", revisions, task, tmp_path / "run", cache_dir=cache)

    def command(*words: str) -> dict:
        capsys.readouterr()
        assert cli([words[0], str(run.path), *words[1:], "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert command("trace", "--measures", "loss")["steps"] == [0, 1000]
    assert command("estimate", "--step", "0", "--examples", "4")["step"] == 0
    assert command("patch", "--examples", "4")["step"] == 1000
    assert command("study", "--examples", "8", "--untrained", "3", "--nulls", "5")
    assert command("report") and (run.path / "report.html").stat().st_size > 10_000
