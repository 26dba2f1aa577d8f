"""A trace draws once, runs once, measures few checkpoints where nothing moves, and shares them among processes."""

from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr

import mechinterp as mi
from mechinterp.core import ConfigError
from mechinterp.core.memo import remembered, remembering
from mechinterp.measures import measure
from mechinterp.models import Transformer
from mechinterp.tasks import Induction
from mechinterp.timeline import Curves, Memory, adaptive_steps, trace
from mechinterp.training import Run

TASK = Induction(vocab=24, seq_len=20, segment=5, repeats=2)
SHARED = [measure(name, examples=16) for name in ("loss", "accuracy", "margin", "predictor_distance", "ridge_probes")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    sizes = dict(n_layers=1, n_heads=2, d_model=16, d_vocab=24, n_ctx=20)
    training = dict(steps=12, batch_size=4, warmup=0, log_checkpoints=3, linear_checkpoints=3)
    return mi.train(TASK, sizes, training, out=tmp_path_factory.mktemp("cheap") / "run")


def test_examples_are_drawn_and_run_once(run: Run, monkeypatch: pytest.MonkeyPatch):
    calls: Counter[str] = Counter()
    plain, drawn = Transformer.forward, Induction.batch.__wrapped__

    def forward(self, *args, **keywords):
        calls["runs"] += 1
        return plain(self, *args, **keywords)

    def batch(self, *args, **keywords):
        calls["draws"] += 1
        return drawn(self, *args, **keywords)

    monkeypatch.setattr(Transformer, "forward", forward)
    monkeypatch.setattr(Induction, "batch", mi.tasks.base._drawn(batch))
    trace(run, SHARED, store=Memory())
    assert calls["runs"] == len(run.steps)
    assert calls["draws"] == 2  # and one that the position-only predictor is fitted to


def test_together_measures_give_the_same_bits_as_alone(run: Run):
    together = trace(run, [*SHARED, measure("head_scores", examples=16)], store=Memory())
    for one in SHARED:
        alone = trace(run, [one], store=Memory())
        assert np.array_equal(together[one.name], alone[one.name], equal_nan=True)
        single = np.stack([one(run.model(step), TASK).mean("example").values for step in run.steps])
        assert np.allclose(together[one.name], single, atol=1e-6, equal_nan=True)


def test_nothing_is_remembered_outside():
    made = []
    for _ in range(2):
        remembered("runs", "key", lambda: made.append(1))
    with remembering("runs"):
        for _ in range(2):
            remembered("draws", "key", lambda: made.append(1))
            remembered("runs", "key", lambda: made.append(1))
    with remembering("runs"):
        remembered("runs", "key", lambda: made.append(1))
    assert len(made) == 2 + 2 + 1 + 1


def test_processes_measure_what_one_process_measures(run: Run, tmp_path):
    here = trace(run, SHARED, store=Memory())
    shared = trace(run, SHARED, workers=2)
    xr.testing.assert_identical(shared.drop_attrs(deep=False), here.drop_attrs(deep=False))
    folders = list((run.path / "timeline").iterdir())
    assert len(folders) == len(SHARED) and all(len(list(one.iterdir())) == len(run.steps) for one in folders)

    class NoFolder:
        path, steps, task = tmp_path, (0, 1), TASK

        def model(self, step):
            return run.model(0)

        def weights_hash(self, step):
            return run.weights_hash(0)

    with pytest.raises(ConfigError, match="for a Run in a folder only"):
        trace(NoFolder(), SHARED, workers=2)  # pyright: ignore


STEPS = list(range(0, 1000, 10))


def _measured(curve, asked: list[int], error: float = 0.0):
    def measure_at(steps):
        asked.extend(step for step in steps if step not in asked)
        mean = np.array([[curve(step)] for step in steps], dtype=float)
        return [Curves(mean, np.full_like(mean, error))]

    return measure_at


def test_a_step_is_found_to_the_checkpoint():
    asked: list[int] = []
    chosen = adaptive_steps(STEPS, _measured(lambda step: step >= 437, asked))
    assert {430, 440} <= set(chosen) and len(chosen) <= 13 + 4 and chosen == sorted(asked)


def test_what_does_not_move_is_not_looked_at():
    assert len(adaptive_steps(STEPS, _measured(lambda step: 1.0, []))) == 13
    rng = np.random.default_rng(0)
    noise = {step: float(rng.standard_normal()) for step in STEPS}
    assert len(adaptive_steps(STEPS, _measured(noise.__getitem__, [], error=1.0))) == 13
    assert adaptive_steps([3, 8], _measured(lambda step: step, [])) == [3, 8]
    assert adaptive_steps([5], _measured(lambda step: step, [])) == [5]


def test_an_adaptive_trace_says_what_it_left_out(run: Run):
    line = trace(run, SHARED, steps="adaptive", store=Memory())
    assert line.attrs["left_out"] == len(run.steps) - line.sizes["step"]
    with pytest.raises(ConfigError, match="steps='few'"):
        trace(run, SHARED, steps="few")


def test_ridge_probes_read_what_is_there():
    """The last layer of a model whose embedding is the token itself."""
    config = mi.ModelConfig(n_layers=1, n_heads=1, d_model=32, d_vocab=24, n_ctx=20, positions="none")
    model = Transformer(config)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(24, 32))
        model.blocks[0].attn.W_O.zero_()

    class Token(Induction):
        name = "ridge-test"

        @property
        def latents(self):
            return {"token": 24, "nothing": 2, "size": None}

        def batch(self, batch=64, seed=0):
            drawn = Induction.batch(self, batch, seed)
            coin = torch.randint(2, drawn.inputs.shape, generator=torch.Generator().manual_seed(seed))
            latents = {"token": drawn.inputs, "nothing": coin, "size": drawn.inputs.float()}
            return mi.Batch(drawn.inputs, drawn.targets, drawn.scored, latents=latents)

    task = Token(vocab=24, seq_len=20, segment=5, repeats=2)
    scores = measure("ridge_probes", examples=128, positions=1024)(model, task).mean("example").isel(layer=0)
    assert float(scores.sel(estimate="score", latent="token")) > 0.99
    assert float(scores.sel(estimate="score", latent="size")) > 0.9
    assert abs(float(scores.sel(estimate="score", latent="nothing")) - 0.5) < 0.06
    assert float(scores.sel(estimate="shuffled", latent="token")) < 0.12
    assert abs(float(scores.sel(estimate="shuffled", latent="size"))) < 0.1
