"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechinterp.core import Batch, derive_seed
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task, get
from mechinterp.training.config import TrainConfig, resolve
from mechinterp.training.progress import Bars
from mechinterp.training.recorder import Recorder
from mechinterp.training.run import Run

Progress = Callable[[int, int], None]


def train(
    task: Task | str,
    model: ModelConfig | Mapping[str, Any] | None = None,
    training: TrainConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | Progress = False,
    **overrides: Any,
) -> Run:
    """Train a transformer on a task and keep all of it in a folder.

    The same settings and seed give the same weights, bit for bit, on one platform and version; so does a run that was
    killed at any moment and continued.

    Args:
        task: The task, or its name.
        model: Architecture, or settings that change the preset's; None for the task's preset.
        training: Likewise.
        seed: Of weights and data.
        out: Folder; None is `runs/<task>-<seed>`.
        resume: Continue what the folder holds. A finished Run stays as it is; in an empty folder training begins.
        progress: True for a bar, or a function that is called with (step, steps).
        **overrides: Single settings of model or training, such as `n_layers=1` or `steps=500`.

    Returns:
        The finished Run.

    Raises:
        ConfigError: If a setting is unknown or has no meaning.
        UnsupportedError: If the task has no preset and no model is given.
        RunError: If the folder holds a Run and `resume` is False, or something else, or cannot be written.
    """
    task = get(task) if isinstance(task, str) else task
    architecture, settings = resolve(task, model, training, overrides)
    path = Path(out) if out is not None else Path("runs") / f"{task.name}-{seed}"
    device = settings.resolve_device()
    with _threads(settings.threads), Bars(progress, path.name) as show:
        made = Transformer(architecture, seed=derive_seed(seed, "model")).to(device)
        adam = torch.optim.AdamW(
            made.parameters(),
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        with Recorder(path, made, task, optimizer=adam, training=settings, seed=seed, resume=resume) as rec:
            if not rec.finished:
                _run(task, made, adam, settings, seed, rec, show)
    return Run(path, task)


def _run(
    task: Task,
    model: Transformer,
    adam: torch.optim.Optimizer,
    settings: TrainConfig,
    seed: int,
    rec: Recorder,
    show: Progress | None,
) -> None:
    """Step t: loss of the weights after t updates, recorded, then update t + 1; the last step has no update."""
    device = next(model.parameters()).device
    every = max(settings.steps // 200, 1)
    for step in range(rec.step, settings.steps + 1):
        batch = task.training_batch(settings.batch_size, seed, step)
        batch = batch if device.type == "cpu" else batch.to(device)
        adam.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(step < settings.steps):
            losses = task.loss(model(batch.inputs), batch)
            loss = _mean(losses, batch.scored if settings.loss_on == "scored" else _answered(batch))
        if rec.logs(step):
            rec(step, loss=loss.detach(), **_by_group(task, losses.detach(), batch))
        if show is not None and (step % every == 0 or step == settings.steps):
            show(step, settings.steps)
        if step < settings.steps:
            loss.backward()
            _update(model, adam, settings, step)


def _update(model: Transformer, adam: torch.optim.Optimizer, settings: TrainConfig, step: int) -> None:
    if settings.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    for group in adam.param_groups:
        group["lr"] = settings.learning_rate(step)
    adam.step()


def _answered(batch: Batch) -> Tensor:
    """Positions that have a target at all; an example that scores nothing only rides along, and is not trained on."""
    real = batch.targets.is_floating_point()
    answered = torch.ones_like(batch.scored) if real else batch.targets >= 0
    return answered & batch.scored.any(1, keepdim=True)


def _by_group(task: Task, losses: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {f"loss_{name}": _mean(losses, mask) for name, mask in task.groups(batch).items()}


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of a mask; NaN where it is empty."""
    return torch.where(mask, losses, 0.0).sum() / mask.sum()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
