"""Nulls of training: the same task, model, settings and seed, and nothing in the examples to learn the task from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from mechinterp.core import Batch, ConfigError, generator, uniform


def shuffle_targets(batch: Batch, seed: int) -> Batch:
    """Scored positions exchange their targets, so that each has the target of another sequence.

    Positions, and how often each target occurs, stay as they are; what a sequence says of its own targets is gone.
    Sequences are put in random order and their scored positions in one row, which is shifted by at least as many places
    as any sequence has, so that no sequence meets its own targets.

    Args:
        batch: Examples of a task.
        seed: Of the exchange. A training set that is the same at every step keeps its wrong answers.

    Raises:
        ConfigError: If one sequence has over half of all scored positions.
    """
    gen = generator(seed, "shuffled targets")
    order = torch.randperm(len(batch), generator=gen).to(batch.device)
    row, position = batch.scored[order].nonzero(as_tuple=True)
    sequence, total, most = order[row], len(row), int(batch.scored.sum(1).max())
    if total < 2 * most:
        raise ConfigError(f"{most} of {total} scored positions are in one sequence: draw more sequences")
    shift = int(torch.randint(most, total - most + 1, (), generator=gen))
    targets = batch.targets.clone()
    targets[sequence, position] = batch.targets[sequence, position].roll(shift, 0)
    return replace(batch, targets=targets)


def exchange_inputs(batch: Batch, seed: int) -> Batch:
    """At each position, sequences exchange their inputs, independently of every other position.

    How often each input occurs at a position stays as it is; what positions say of each other, and of the targets, is
    gone.

    Args:
        batch: Examples of a task.
        seed: Of the exchange.
    """
    draws = uniform(generator(seed, "independent inputs"), *batch.inputs.shape[:2])
    order = draws.argsort(0).to(batch.device)
    index = order if batch.inputs.ndim == 2 else order[..., None].expand_as(batch.inputs)
    return replace(batch, inputs=batch.inputs.gather(0, index))


TRAINING_NULLS: Mapping[str, Callable[[Batch, int], Batch]] = {
    "shuffled-targets": shuffle_targets,
    "independent-inputs": exchange_inputs,
}
"""What training can be a null of: `TrainConfig(null=...)`."""
