"""A null for trained models: the same task and training, but every sequence is scored on another one's answers.

Positions, statistics and effort stay as they were; only what a sequence says about its own answers is gone.
`tests/circuits/conftest.py` hands `train_shuffled` to the tests as a fixture.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mechinterp.core import Batch, generator
from mechinterp.models import Transformer
from mechinterp.tasks import Task
from mechinterp.training import train


def train_shuffled(task: Task, out: Path, seed: int = 0, **overrides: Any) -> Transformer:
    """A model trained on shuffled targets, to be put in the place of a shipped one; arguments as in `train`."""
    model = train(shuffled(task), seed=seed, out=out, **overrides).model()
    assert isinstance(model, Transformer)
    return model


def shuffled(task: Task) -> Task:
    """The task, with targets shuffled in training; all else (preset, groups, what `batch` draws) is the task's own."""

    class Shuffled(type(task)):
        name = f"shuffled-{task.name}"

        def training_batch(self, batch: int, seed: int, step: int) -> Batch:
            # The seed, not the step: a training set that is fixed keeps its wrong answers, and may be memorised.
            # The task's own draw, not super's: what is drawn depends on the name.
            return shuffle_targets(task.training_batch(batch, seed, step), seed)

    return Shuffled(**task.model_dump())


def shuffle_targets(batch: Batch, seed: int) -> Batch:
    """Scored positions exchange their targets, each taking one from another sequence.

    Sequences are put in random order and their scored positions in one row, which then moves on by at least as many
    places as any sequence has: so none meets its own sequence again.

    Raises:
        ValueError: If one sequence has over half of all scored positions.
    """
    gen = generator(seed, "shuffled targets")
    order = torch.randperm(len(batch), generator=gen).to(batch.device)
    row, position = batch.scored[order].nonzero(as_tuple=True)
    sequence, total, most = order[row], len(row), int(batch.scored.sum(1).max())
    if total < 2 * most:
        raise ValueError(f"{most} of {total} scored positions are in one sequence: draw more sequences")
    move = int(torch.randint(most, total - most + 1, (), generator=gen))
    targets = batch.targets.clone()
    targets[sequence, position] = batch.targets[sequence, position].roll(move, 0)
    return replace(batch, targets=targets)
