"""One training: which examples a step sees, their loss, and the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mechinterp.core import Batch, check_memory, derive_seed, without_modes
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task
from mechinterp.training.config import TrainConfig
from mechinterp.training.nulls import TRAINING_NULLS


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of one step's examples.

    Args:
        task: Knows the groups of positions.
        batch: The examples.
        each: Loss at every position, `[batch, seq]`.
        mean: The mean over the positions that are trained on; its gradient makes the update.
    """

    task: Task
    batch: Batch
    each: Tensor
    mean: Tensor


@dataclass(frozen=True, eq=False)
class Trainer:
    """What `train` does at each step, for other loops.

    Args:
        task: Draws the examples.
        model: Is trained in place.
        adam: Its optimiser.
        settings: Of training.
        seed: Of the weights, and of the examples unless the settings have a `data_seed`; step t sees the same examples
            whatever came before.

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
            ConfigError: If the device is not there, or the memory does not hold the training.
        """
        # Weights, gradients and AdamW's two averages.
        check_memory(4 * model.memory, f"training {model.n_weights:,} weights")
        transformer = Transformer(model, seed=derive_seed(seed, "model")).to(settings.resolve_device())
        adam = torch.optim.AdamW(
            transformer.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        return cls(task, transformer, adam, settings, seed)

    @without_modes()
    def step(self, step: int) -> Losses:
        """One whole step; the losses are those before the update."""
        losses = self.losses(step)
        self.update(losses, step)
        return losses

    @without_modes()
    def losses(self, step: int) -> Losses:
        """The loss of the model as it is on the examples of a step."""
        device = self.model.device
        seed = self.seed if self.settings.data_seed is None else self.settings.data_seed
        batch = self.task.training_batch(self.settings.batch_size, seed, step)
        if self.settings.null != "none":
            batch = TRAINING_NULLS[self.settings.null](batch, seed)
        batch = batch if device.type == "cpu" else batch.to(device)
        each = self.task.loss(self.model(batch.inputs), batch)
        scored = batch.scored if self.settings.loss_on == "scored" else _with_target(batch)
        return Losses(self.task, batch, each, masked_mean(each, scored))

    @without_modes()
    def update(self, losses: Losses, step: int) -> None:
        """One update of the weights, at the learning rate of the step."""
        self.adam.zero_grad(set_to_none=True)
        losses.mean.backward()
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.settings.learning_rate(step)
        self.adam.step()


def _with_target(batch: Batch) -> Tensor:
    """Positions with a target, of the examples that score any; the others are in the batch for their loss alone."""
    real = batch.targets.is_floating_point()
    has_target = torch.ones_like(batch.scored) if real else batch.targets >= 0
    return has_target & batch.scored.any(1, keepdim=True)


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of a mask; NaN where it is empty."""
    return torch.where(mask, losses, 0.0).sum() / mask.sum()
