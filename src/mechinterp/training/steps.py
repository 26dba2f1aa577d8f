"""One training, step by step: data, loss, update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mechinterp.core import Batch, derive_seed
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task
from mechinterp.training.config import TrainConfig
from mechinterp.training.nulls import NULLS


@dataclass(frozen=True, eq=False)
class Losses:
    """What one step's examples cost.

    Args:
        task: Knows the groups of positions.
        batch: The examples.
        each: Loss at every position, `[batch, seq]`.
        mean: What is descended: the mean over the positions that are trained on.
    """

    task: Task
    batch: Batch
    each: Tensor
    mean: Tensor

    def by_group(self) -> dict[str, Tensor]:
        """`loss_<group>` -> mean over the group; NaN where it is empty."""
        each = self.each.detach()
        return {f"loss_{name}": _mean(each, mask) for name, mask in self.task.groups(self.batch).items()}


@dataclass(frozen=True, eq=False)
class Trainer:
    """What `train` does at each step, for loops of one's own.

    Args:
        task: Draws the examples.
        model: Is trained in place.
        adam: Its optimiser.
        settings: Of training.
        seed: Of weights and data; step t sees the same examples whatever came before.

    >>> from mechinterp.tasks import Regression
    >>> from mechinterp.training import resolve
    >>> task = Regression()
    >>> trainer = Trainer.of(task, *resolve(task), seed=0)
    >>> first, *_, last = [trainer.step(t).mean.item() for t in range(50)]
    >>> last < first
    True
    """

    task: Task
    model: Transformer
    adam: torch.optim.Optimizer
    settings: TrainConfig
    seed: int

    @classmethod
    def of(cls, task: Task, model: ModelConfig, settings: TrainConfig, seed: int) -> Trainer:
        """A new model with its optimiser.

        Raises:
            ConfigError: If the device is not there.
        """
        made = Transformer(model, seed=derive_seed(seed, "model")).to(settings.resolve_device())
        adam = torch.optim.AdamW(
            made.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return cls(task, made, adam, settings, seed)

    def step(self, step: int) -> Losses:
        """One whole step; the losses are those before the update."""
        losses = self.losses(step)
        self.update(losses, step)
        return losses

    def losses(self, step: int) -> Losses:
        """The loss of the model as it is on the examples of a step."""
        device = self.model.device
        batch = self.task.training_batch(self.settings.batch_size, self.seed, step)
        if self.settings.null != "none":
            batch = NULLS[self.settings.null](batch, self.seed)
        batch = batch if device.type == "cpu" else batch.to(device)
        each = self.task.loss(self.model(batch.inputs), batch)
        scored = batch.scored if self.settings.loss_on == "scored" else _answered(batch)
        return Losses(self.task, batch, each, _mean(each, scored))

    def update(self, losses: Losses, step: int) -> None:
        """Descend."""
        self.adam.zero_grad(set_to_none=True)
        losses.mean.backward()
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.settings.learning_rate(step)
        self.adam.step()


def _answered(batch: Batch) -> Tensor:
    """Positions that have a target at all; an example that scores nothing only rides along, and is not trained on."""
    real = batch.targets.is_floating_point()
    answered = torch.ones_like(batch.scored) if real else batch.targets >= 0
    return answered & batch.scored.any(1, keepdim=True)


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of a mask; NaN where it is empty."""
    return torch.where(mask, losses, 0.0).sum() / mask.sum()
