"""The loop: equal to one written by hand, reproducible, and lean; its settings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mechinterp import tasks
from mechinterp.core import Batch, ConfigError, MechinterpError, RunError, UnsupportedError, derive_seed
from mechinterp.models import ModelConfig, Transformer
from mechinterp.training import Run, TrainConfig, resolve, train


def test_same_seed_same_bytes_other_seed_other_weights(tiny_train, tiny_run, content, tmp_path: Path):
    assert content(tiny_train(tmp_path / "again").path) == content(tiny_run.path)
    other = tiny_train(tmp_path / "other", seed=1)
    assert all(other.weights_hash(step) != tiny_run.weights_hash(step) for step in other.steps)


@pytest.mark.parametrize("loss_on", ["scored", "all"])
def test_equals_a_loop_by_hand(task, tmp_path: Path, loss_on: str):
    settings = dict(lr=0.01, weight_decay=0.3, warmup=3, clip=0.05, lr_schedule="cosine", batch_size=4, steps=8)
    sizes = dict(n_layers=1, n_heads=2, d_model=8)
    run = train(task, model=sizes, training=settings, out=tmp_path / "run", seed=3, loss_on=loss_on)
    model = Transformer(ModelConfig(**{**task.preset().model, **sizes}), seed=derive_seed(3, "model"))
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.3, fused=True)
    clipped = 0
    for step in range(8):
        batch = task.batch(4, seed=derive_seed(3, "data", step))
        rate = (step + 1) / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 5))
        logits = model(batch.inputs)
        mask = batch.scored if loss_on == "scored" else torch.ones_like(batch.scored)
        loss = torch.nn.functional.cross_entropy(logits[mask], batch.targets[mask])
        model.zero_grad()
        loss.backward()
        clipped += bool(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05) > 0.05)
        adam.param_groups[0]["lr"] = 0.01 * rate
        adam.step()
    assert clipped == 8
    for name, value in run.weights(8).items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=2e-5, rtol=1e-4)


def test_metrics_are_the_losses_of_the_checkpoints(task, tiny_run):
    metrics = tiny_run.metrics()
    assert metrics["step"].values.tolist() == [0, 1, 2, 3, 4] and tiny_run.steps == (0, 2, 4)
    assert list(metrics) == ["loss", "loss_repeat", "loss_fresh"]
    for step in tiny_run.steps:
        batch = task.training_batch(2, 0, step)
        with torch.no_grad():
            losses = task.loss(tiny_run.model(step)(batch.inputs), batch)
        for name, mask in {"repeat": batch.scored, "fresh": task.groups(batch)["fresh"]}.items():
            assert float(metrics[f"loss_{name}"].sel(step=step)) == pytest.approx(float(losses[mask].mean()), abs=1e-5)
    assert np.array_equal(metrics["loss"], metrics["loss_repeat"])


def test_threads_are_restored_also_after_an_error(tiny_train, tiny_run, tmp_path: Path):
    before = torch.get_num_threads()
    seen = []
    run = tiny_train(tmp_path / "two", threads=before + 1, progress=lambda *_: seen.append(torch.get_num_threads()))
    assert set(seen) == {before + 1} and torch.get_num_threads() == before and run.config.threads == before + 1
    with pytest.raises(RunError):
        tiny_train(tiny_run.path, threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_global_generator_is_left_alone(tiny_train, tmp_path: Path):
    before = torch.get_rng_state()
    tiny_train(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_run_stays_as_it_is(tiny_train, tiny_run, content):
    wanted = content(tiny_run.path)
    times = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    calls = []
    run = tiny_train(tiny_run.path, resume=True, progress=lambda *where: calls.append(where))
    assert run.status == "finished" and calls == [] and content(tiny_run.path) == wanted
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == times


def test_a_run_is_never_overwritten(tiny_train, tiny_run, content):
    wanted = content(tiny_run.path)
    with pytest.raises(RunError, match=r"holds a Run \(finished at step 4\): continue it with resume"):
        tiny_train(tiny_run.path)
    for change, message in [
        (dict(lr=0.1), "training.lr is 0.003 in the folder and 0.1 now"),
        (dict(seed=1), "seed is 0 in the folder and 1 now"),
        (dict(d_model=16), "model.d_model is 8 in the folder and 16 now; model.d_head is 4"),
    ]:
        with pytest.raises(RunError, match=message):
            tiny_train(tiny_run.path, resume=True, **change)
    assert content(tiny_run.path) == wanted


def test_settings_of_model_and_training_share_no_name():
    assert set(ModelConfig.model_fields) & set(TrainConfig.model_fields) == set()


def test_resolve_fills_from_the_preset(task):
    model, training = resolve(task, overrides=dict(n_layers=1, steps=50))
    assert (model.n_layers, model.d_vocab, model.positions) == (1, 16, "rotary")
    assert (training.steps, training.lr) == (50, 3e-3)
    model, training = resolve(task, model, training, dict(d_model=32))
    assert (model.n_layers, model.d_head, training.steps) == (1, 8, 50)
    assert resolve(task, dict(n_heads=2), dict(lr=1.0))[1] == TrainConfig(**{**task.preset().training, "lr": 1.0})


def test_unknown_settings_are_one_clear_line(task):
    with pytest.raises(ConfigError, match=r"no model or training setting 'step'\. Did you mean 'steps'\?"):
        train(task, step=3)
    with pytest.raises(ConfigError, match=r"TrainConfig: lr=-1"):
        train(task, lr=-1)
    with pytest.raises(ConfigError, match="warmup=9 is longer than steps=5"):
        TrainConfig(steps=5, warmup=9)
    with pytest.raises(ConfigError, match="no task 'induktion'"):
        train("induktion")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="this machine has no usable GPU"):
            train(task, device="cuda")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(d_model=10**9), "needs .* GB of memory"),
        (dict(n_layers=10**9), "needs .* GB of memory"),
        (dict(d_mlp=10**15), "needs .* GB of memory"),
        (dict(n_ctx=10**9), "needs .* GB of memory"),
        (dict(batch_size=10**12), "training induction with these settings needs more memory than there is"),
        (dict(batch_size=10**18), "training induction with these settings needs more memory than there is"),
        (dict(log_checkpoints=10**9), "log_checkpoints=1000000000"),
        (dict(linear_checkpoints=10**9), "linear_checkpoints=1000000000"),
        (dict(steps=10**30), "steps is an integer of more than 64 bits"),
    ],
)
def test_sizes_that_no_memory_holds_are_one_clear_line(tiny_train, tmp_path: Path, settings, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        tiny_train(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


class Regression(tasks.Task):
    """Real vectors, a fixed training set, test examples along with it, no preset."""

    name = "regression-training-test"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        gen = torch.Generator().manual_seed(seed)
        inputs = torch.randn(batch, 2, 3, generator=gen)
        return Batch(inputs, inputs.sum(-1, keepdim=True), torch.ones(batch, 2, dtype=torch.bool))

    def training_batch(self, batch: int, seed: int, step: int) -> Batch:
        whole = self.batch(16, 0)
        return Batch(whole.inputs, whole.targets, (torch.arange(16) < 8)[:, None].expand(16, 2))

    def groups(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"train": batch.scored, "test": ~batch.scored}


def test_real_vectors_and_a_fixed_training_set(tmp_path: Path):
    with pytest.raises(UnsupportedError, match="no preset"):
        train(Regression(), out=tmp_path / "none")
    shape = ModelConfig(n_layers=1, n_heads=1, d_model=8, n_ctx=2, inputs="vectors", d_in=3, outputs="values", d_out=1)
    run = train(Regression(), shape, dict(steps=60, lr=0.02, log_every=1), out=tmp_path / "run")
    line = run.metrics()
    assert list(line) == ["loss", "loss_train", "loss_test"] and np.array_equal(line["loss"], line["loss_train"])
    assert float(line["loss_train"][-1]) < 0.3 * float(line["loss_train"][0])
    assert float(line["loss_test"][-1]) > float(line["loss_train"][-1])


@pytest.mark.parametrize("mode", ["autocast", "float64", "inference"])
def test_weights_depend_on_no_mode_of_torch(tiny_train, tiny_run, content, tmp_path: Path, mode: str):
    torch.set_default_dtype(torch.float64 if mode == "float64" else torch.float32)
    try:
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast")
        with autocast, torch.inference_mode(mode == "inference"):
            run = tiny_train(tmp_path / "again")
            assert {weight.dtype for weight in run.model().parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
    assert content(run.path) == content(tiny_run.path)


@pytest.mark.parametrize("rate", [float("inf"), 1e30])
def test_a_run_without_a_finite_loss_has_diverged(task, tmp_path: Path, rate: float):
    with pytest.raises(MechinterpError, match=r"the loss is (nan|inf) at step 1: lower lr"):
        train(task, training=dict(lr=rate, steps=5, batch_size=4, warmup=0), out=tmp_path / "run")
    assert Run(tmp_path / "run").status == "diverged"


def test_weights_and_examples_have_seeds_of_their_own(tiny_train, tiny_run, tmp_path: Path):
    """The seed of the data changes what is seen and not where training begins; naming the usual one changes no bit."""
    other = tiny_train(tmp_path / "other", data_seed=5)
    assert other.weights_hash(0) == tiny_run.weights_hash(0)
    assert other.weights_hash() != tiny_run.weights_hash()
    assert other.config.training is not None and other.config.training.data_seed == 5
    assert tiny_train(tmp_path / "same", data_seed=0).weights_hash() == tiny_run.weights_hash()
    crossed = tiny_train(tmp_path / "crossed", seed=5, data_seed=0)
    first, same = (run.metrics()["loss"].values[0] for run in (tiny_train(tmp_path / "five", seed=5), other))
    assert crossed.weights_hash(0) not in (tiny_run.weights_hash(0), other.weights_hash(0)) and first != same
