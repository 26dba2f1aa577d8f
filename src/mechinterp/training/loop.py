"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch

from mechinterp.core import ConfigError, DivergedError, memory_explained, using_threads, without_modes
from mechinterp.core.progress import Bars, StepProgress, nameless
from mechinterp.models import ModelConfig
from mechinterp.tasks import Task, get
from mechinterp.training.config import TrainConfig, resolve
from mechinterp.training.folder import nearest
from mechinterp.training.interventions import Intervention, as_interventions
from mechinterp.training.record import NAME
from mechinterp.training.recorder import Recorder
from mechinterp.training.run import Run
from mechinterp.training.trainer import Trainer

AtCheckpoint = Callable[[Run, int], None]
"""What is done at a checkpoint of a training: with the Run as it is by then, and the step."""


@without_modes()
def train(
    task: Task | str,
    model: ModelConfig | Mapping[str, object] | None = None,
    training: TrainConfig | Mapping[str, object] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | StepProgress = False,
    interventions: Iterable[Intervention | Mapping[str, object]] = (),
    keep: Iterable[int] | None = None,
    at_checkpoint: AtCheckpoint | None = None,
    **overrides: object,
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
        interventions: What to change in this training, and from which step on: `training.interventions`, or their
            settings as plain data. They are recorded with the Run.
        keep: Checkpoints whose weights stay in the folder, beside the last step's; None for all. Of the others only
            what is measured on the way is left.
        at_checkpoint: Called with the Run and the step at each checkpoint, before training goes on; after a crash it is
            called again for the step that training continues from. It must change nothing.
        **overrides: Single settings of model or training, such as `n_layers=1` or `steps=500`.

    Returns:
        The finished Run.

    Raises:
        ConfigError: If a setting is unknown or has no meaning, or an intervention does not fit the model.
        UnsupportedError: If the task has no preset and no model is given.
        RunError: If the folder holds a Run and `resume` is False, or something else, or cannot be written.
    """
    task = get(task) if isinstance(task, str) else task
    architecture, settings = resolve(task, model, training, overrides)
    keep = None if keep is None else tuple(keep)
    odd = set(keep or ()) - set(settings.checkpoint_steps)
    if odd:
        near = nearest(min(odd), settings.checkpoint_steps)
        raise ConfigError(f"keep: step {min(odd)} is no checkpoint of these settings: {near}")
    path = Path(out) if out is not None else Path("runs") / f"{task.name}-{seed}"
    size = f"training {task.name} with these settings"
    with using_threads(settings.threads), Bars(nameless(progress)) as show, memory_explained(size):
        trainer = Trainer.of(task, architecture, settings, seed, as_interventions(interventions))
        course = trainer.course
        if course is not None and not (path / NAME).exists():
            course.check_sources()
        recorder = Recorder(
            path,
            trainer.model,
            task,
            optimizer=trainer.adam,
            training=settings,
            seed=seed,
            keep=keep,
            course=course,
            resume=resume,
        )
        with recorder as rec:
            if not rec.finished:
                _run(trainer, rec, partial(show, path.name), at_checkpoint)
    return Run(path, task)


def _run(trainer: Trainer, rec: Recorder, progress: StepProgress, at_checkpoint: AtCheckpoint | None) -> None:
    """Step t: loss of the weights after t updates, recorded, then update t + 1; the last step has no update."""
    steps = trainer.settings.steps
    every = max(steps // 200, 1)
    for step in range(rec.step, steps + 1):
        with torch.set_grad_enabled(step < steps):
            losses = trainer.losses(step)
        if rec.logs(step):
            rec(step, **losses.columns())
            if not bool(torch.isfinite(losses.mean)):
                raise DivergedError(
                    f"{rec.path}: the loss is {losses.mean.item()} at step {step}: lower lr, or clip the gradient"
                )
        if at_checkpoint is not None and rec.saves(step):
            # A Run that is opened now knows what interventions turned out to be by now.
            at_checkpoint(Run(rec.path, trainer.task), step)
        if step % every == 0 or step == steps:
            progress(step, steps)
        if step < steps:
            trainer.update(losses, step)
