"""Pairs for causal measures: of one corruption, or of all that a task knows."""

from __future__ import annotations

import torch
from torch import Tensor

from mechinterp.core import Batch, Pair, derive_seed
from mechinterp.tasks import Task

ALL = "all"


def draw_pair(task: Task, examples: int, seed: int, corruption: str | None = None) -> Pair:
    """Clean and corrupted examples.

    Args:
        task: Draws them.
        examples: How many.
        seed: Their seed.
        corruption: One of the task's; None is its first; `all` mixes all of them in equal parts (an effect is then the
            mean over corruptions). One corruption shows one part of a circuit: one that changes what the answer is
            copied from says nothing about how the place is found. A mixture shows every edge that some corruption
            shows. A role that one of them lacks is -1 in its examples.

    Raises:
        UnsupportedError: If the task has no pairs.
        ConfigError: If it has no such corruption.
    """
    if corruption != ALL or len(task.corruptions) < 2:
        return task.pair(examples, seed, None if corruption == ALL else corruption)
    kinds = task.corruptions[:examples]
    sizes = [examples // len(kinds) + (number < examples % len(kinds)) for number in range(len(kinds))]
    parts = [task.pair(size, derive_seed(seed, "pair", kind), kind) for kind, size in zip(kinds, sizes, strict=True)]
    return Pair(_join([part.clean for part in parts]), _join([part.corrupted for part in parts]))


def _join(batches: list[Batch]) -> Batch:
    roles = dict.fromkeys(name for batch in batches for name in batch.roles)
    latents = [name for name in batches[0].latents if all(name in batch.latents for batch in batches)]

    def role(batch: Batch, name: str) -> Tensor:
        absent = torch.full((len(batch),), -1, dtype=torch.long, device=batch.device)
        return batch.roles.get(name, absent)

    wrong = [batch.wrong for batch in batches if batch.wrong is not None]
    return Batch(
        torch.cat([batch.inputs for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
        torch.cat([batch.scored for batch in batches]),
        torch.cat(wrong) if len(wrong) == len(batches) else None,
        {name: torch.cat([role(batch, name) for batch in batches]) for name in roles},
        {name: torch.cat([batch.latents[name] for batch in batches]) for name in latents},
    )
