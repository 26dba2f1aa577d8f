"""When weights are kept, and how large the learning rate is."""

import pytest

from mechinterp.training import TrainConfig


def test_checkpoint_schedule():
    config = TrainConfig(steps=1000, log_checkpoints=4, linear_checkpoints=5)
    assert config.checkpoint_steps == (0, 1, 10, 100, 200, 400, 600, 800, 1000)
    assert TrainConfig(steps=7, log_checkpoints=0, linear_checkpoints=0).checkpoint_steps == (0, 7)
    assert len(TrainConfig(steps=1200).checkpoint_steps) == 78


def test_learning_rates():
    config = TrainConfig(steps=10, lr=1.0, warmup=4, lr_schedule="linear")
    rates = [config.learning_rate(step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert TrainConfig(lr=0.5).learning_rate(999) == 0.5
