"""One training: which examples a step sees, their loss, and the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechinterp.core import Batch, check_memory, derive_seed, without_modes
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task
from mechinterp.training.config import TrainConfig
from mechinterp.training.interventions import AnyIntervention
from mechinterp.training.interventions.course import Conditions, Course
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

    def columns(self) -> dict[str, Tensor]:
        """What `train` logs at a step: `loss`, and `loss_<group>` for each group of the task's positions."""
        each, groups = self.each.detach(), self.task.groups(self.batch)
        return {
            "loss": self.mean.detach(),
            **{f"loss_{name}": masked_mean(each, mask) for name, mask in groups.items()},
        }


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
        course: The interventions; None without any.

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
    course: Course | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        model: ModelConfig,
        settings: TrainConfig,
        seed: int,
        interventions: Sequence[AnyIntervention] = (),
    ) -> Trainer:
        """A new model with its optimiser.

        Raises:
            ConfigError: If the device is not there, the memory does not hold the training, or an intervention does not
                fit the model.
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
        course = Course(interventions, transformer, adam, Conditions(task, settings, seed)) if interventions else None
        return cls(task, transformer, adam, settings, seed, course)

    @property
    def conditions(self) -> Conditions:
        """What it trains on without interventions."""
        return Conditions(self.task, self.settings, self.seed)

    @without_modes()
    def step(self, step: int) -> Losses:
        """One whole step; the losses are those before the update."""
        losses = self.losses(step)
        self.update(losses, step)
        return losses

    @without_modes()
    def losses(self, step: int) -> Losses:
        """The loss of the model as it is on the examples of a step."""
        device, now, run = self.model.device, self.conditions, self.model
        if self.course is not None:
            self.course.begin(step)
            now, run = self.course.now, self.course.run
        batch = now.task.training_batch(now.settings.batch_size, now.data_seed, step)
        if now.settings.null != "none":
            batch = TRAINING_NULLS[now.settings.null](batch, now.data_seed)
        batch = batch if device.type == "cpu" else batch.to(device)
        each = now.task.loss(run(batch.inputs), batch)
        scored = batch.scored if now.settings.loss_on == "scored" else _with_target(batch)
        return Losses(now.task, batch, each, masked_mean(each, scored))

    @without_modes()
    def update(self, losses: Losses, step: int) -> None:
        """One update of the weights, at the learning rate of the step."""
        self.adam.zero_grad(set_to_none=True)
        losses.mean.backward()
        settings = self.settings
        if self.course is not None:
            self.course.mask_gradients()
            settings = self.course.now.settings
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        for group in self.adam.param_groups:
            group["lr"] = settings.learning_rate(step)
            if self.course is not None:
                group |= {"betas": (settings.beta1, settings.beta2), "weight_decay": settings.weight_decay}
        self.adam.step()
        if self.course is not None:
            self.course.put_back()


def _with_target(batch: Batch) -> Tensor:
    """Positions with a target, of the examples that score any; the others are in the batch for their loss alone."""
    real = batch.targets.is_floating_point()
    has_target = torch.ones_like(batch.scored) if real else batch.targets >= 0
    return has_target & batch.scored.any(1, keepdim=True)


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of a mask; NaN where it is empty."""
    return torch.where(mask, losses, 0.0).sum() / mask.sum()
