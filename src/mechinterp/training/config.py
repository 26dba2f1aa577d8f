"""How to train: the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator

from mechinterp.core import ConfigError, Settings, UnsupportedError, suggest
from mechinterp.models import ModelConfig
from mechinterp.tasks import Preset, Task
from mechinterp.training.schedules import RateSchedule, checkpoint_steps, learning_rate


class TrainConfig(Settings):
    """Settings of training, frozen; AdamW decays all weights alike.

    Checkpoints lie at step 0, the last step, `log_checkpoints` logarithmic and `linear_checkpoints` even distances.

    Raises:
        ConfigError: If a setting is unknown or has no meaning.

    >>> TrainConfig(steps=100, log_checkpoints=5, linear_checkpoints=4).checkpoint_steps
    (0, 1, 3, 10, 25, 32, 50, 75, 100)
    """

    steps: int = Field(1000, ge=1, description="updates")
    batch_size: int = Field(32, ge=1, description="examples per update")
    lr: float = Field(1e-3, gt=0, description="largest learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay, of all weights")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's average of gradients")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's average of squared gradients")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    lr_schedule: RateSchedule = Field("constant", description="learning rate after warm-up")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; none for no limit")
    loss_on: Literal["scored", "all"] = Field("scored", description="positions that the loss averages over")
    null: Literal["none", "shuffled-targets", "independent-inputs"] = Field(
        "none", description="train on a null of the task, from which it cannot be learnt"
    )
    data_seed: int | None = Field(None, description="seed of the examples; none for the seed of the weights")
    log_checkpoints: int = Field(20, ge=0, le=100_000, description="checkpoints at logarithmic distances")
    linear_checkpoints: int = Field(60, ge=0, le=100_000, description="checkpoints at even distances")
    log_every: int = Field(5, ge=1, description="steps from one line of metrics to the next")
    threads: int = Field(1, ge=1, description="torch's threads; results are bit-identical for one number only")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one")

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.warmup > self.steps:
            raise ValueError(f"warmup={self.warmup} is longer than steps={self.steps}")
        return self

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps whose weights are kept, ascending."""
        return checkpoint_steps(self.steps, self.log_checkpoints, self.linear_checkpoints)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the update that follows step `step` (from 0)."""
        return learning_rate(self.lr_schedule, self.lr, step, self.warmup, self.steps)

    def resolve_device(self) -> torch.device:
        """The device that `device` means on this machine.

        Raises:
            ConfigError: If it is not there.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device='cuda': this machine has no usable GPU; use 'cpu' or 'auto'")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(
    task: Task,
    model: ModelConfig | Mapping[str, object] | None = None,
    training: TrainConfig | Mapping[str, object] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> tuple[ModelConfig, TrainConfig]:
    """Complete settings of a training run.

    Args:
        task: Whose preset fills what is not given.
        model: A whole configuration, settings that change the preset's, or None for the preset.
        training: Likewise.
        overrides: Single settings of either (no name is in both); they win.

    Raises:
        ConfigError: If a setting is unknown or has no meaning.
        UnsupportedError: If the task has no preset, and `model` is no whole configuration.
    """
    single = dict(overrides or {})
    for_model = {name: single.pop(name) for name in list(single) if name in ModelConfig.model_fields}
    for_training = {name: single.pop(name) for name in list(single) if name in TrainConfig.model_fields}
    if single:
        name = next(iter(single))
        near = suggest(name, [*ModelConfig.model_fields, *TrainConfig.model_fields])
        raise ConfigError(f"no model or training setting '{name}'.{near}")
    try:
        preset = task.preset()
    except UnsupportedError:
        if not isinstance(model, ModelConfig):
            raise
        preset = Preset()
    if not isinstance(model, ModelConfig):
        model = ModelConfig.of({**preset.model, **(model or {}), **for_model})
    elif for_model:
        model = model.change(**for_model)
    settings = training.model_dump() if isinstance(training, TrainConfig) else {**preset.training, **(training or {})}
    return model, TrainConfig.of({**settings, **for_training})
