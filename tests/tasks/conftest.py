"""Shared by the tests of all tasks."""

import time

import pytest
import torch

from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task


@pytest.fixture(scope="session")
def draws_per_step():
    """How many training batches are drawn in the time of one update of the preset; both measured in turn."""

    def measure(task: Task, rounds: int = 12) -> float:
        preset = task.preset()
        model = Transformer(ModelConfig(**preset.model))
        adam = torch.optim.AdamW(model.parameters(), fused=True)
        size = preset.training["batch_size"]
        draws, steps = [], []
        for seed in range(rounds):
            start = time.perf_counter()
            batch = task.training_batch(size, 0, seed)
            drawn = time.perf_counter()
            adam.zero_grad(set_to_none=True)
            loss = task.loss(model(batch.inputs), batch)
            torch.where(batch.scored, loss, 0.0).sum().backward()
            adam.step()
            draws.append(drawn - start)
            steps.append(time.perf_counter() - drawn)
        return min(steps) / min(draws)

    return measure
