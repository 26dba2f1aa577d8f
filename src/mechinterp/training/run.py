"""`Run`: a training run on disk, opened for reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import commonpath
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp._version import __version__
from mechinterp.core import ConfigError, RunError, UnsupportedError
from mechinterp.models import Transformer
from mechinterp.tasks import Task, names, task_class
from mechinterp.training.folder import Folder
from mechinterp.training.record import RunRecord, read_record
from mechinterp.training.tensors import tensor_hash


class Run:
    """A folder with configuration, checkpoints by step, and metrics.

    Opening one runs no code of whoever made it: files are JSON and safetensors, and a task that somebody wrote is
    only asked for where it is needed.

    Args:
        path: The folder.
        task: The task, if it is your own; settings must equal the recorded ones.
        build: Makes the module whose weights these are, if it is not our Transformer.

    Raises:
        RunError: If the folder holds no Run, or one that does not fit this version, or of another task.
    """

    def __init__(
        self, path: str | Path, task: Task | None = None, build: Callable[[], nn.Module] | None = None
    ) -> None:
        self.path = Path(path)
        self._folder = Folder(self.path)
        self._record = read_record(self.path)
        self._task, self._build = task, build
        self._foreign: _Foreign | None = None
        if task is not None and self._record.task is not None and self._rebuilt(type(task)) != task:
            raise RunError(f"{self.path} was trained on {self._record.task}, not on {task.to_dict()}")

    @classmethod
    def from_checkpoints(
        cls,
        paths: Mapping[int, str | Path],
        loader: Callable[[Path], nn.Module],
        task: Task | None = None,
        out: str | Path | None = None,
    ) -> Run:
        """Checkpoints that somebody else trained, as a Run; the files stay where they are.

        Args:
            paths: Step -> file or folder.
            loader: Makes the model from one of them.
            task: What the models are to be looked at with.
            out: Where results about them are kept; None is a folder `mechinterp` beside the checkpoints.

        Raises:
            RunError: If there are no checkpoints, or one does not exist.
        """
        made = cls.__new__(cls)
        made._foreign = _Foreign({int(step): Path(path) for step, path in sorted(paths.items())}, loader)
        parents = commonpath([path.absolute().parent for path in made._foreign.paths.values()])
        made.path = Path(out) if out is not None else Path(parents) / "mechinterp"
        made._folder = Folder(made.path)
        made._record = RunRecord(task=None if task is None else task.to_dict(), status="finished")
        made._task, made._build = task, None
        return made

    @property
    def config(self) -> RunRecord:
        """Task, model, training, seed, threads, versions and status as recorded."""
        return self._record

    @property
    def seed(self) -> int | None:
        """Seed of weights and data; None if unknown."""
        return self._record.seed

    @property
    def status(self) -> str:
        """`running` (also: killed), `interrupted` or `finished`, when the Run was opened."""
        return self._record.status

    @property
    def task(self) -> Task:
        """What it was trained on.

        Raises:
            UnsupportedError: If the task is not known here and has to be handed over.
            RunError: If its recorded settings do not fit.
        """
        if self._task is not None:
            return self._task
        recorded = self._record.task
        if recorded is None:
            raise UnsupportedError(f"{self.path} records no task: open it as Run(path, task=...)")
        if recorded.get("name") not in names():
            raise UnsupportedError(
                f"{self.path} was trained on the task '{recorded.get('name')}', which is not known here: import the "
                "module that defines it, or open the Run as Run(path, task=...)"
            )
        rebuilt = self._rebuilt(task_class(recorded["name"]))
        assert rebuilt is not None
        return rebuilt

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending; read anew each time, so a Run can be watched while it trains."""
        return self._foreign.steps if self._foreign else self._folder.steps()

    def model(self, step: int | None = None) -> nn.Module:
        """A new model with the weights of a step.

        Args:
            step: One of `steps`; None is the last.

        Raises:
            RunError: If there is no such checkpoint, or it is damaged or does not fit.
            UnsupportedError: If the model is not ours and the Run was opened without `build`.
        """
        step = self._known(step)
        if self._foreign:
            return self._foreign.model(step)
        if self._build is not None:
            model = self._build()
        elif self._record.model is not None:
            model = Transformer(self._record.model)
        else:
            raise UnsupportedError(
                f"{self.path} holds weights of a model of somebody's own: open it as Run(path, build=...)"
            )
        try:
            model.load_state_dict(self.weights(step))
        except RuntimeError as error:
            raise RunError(f"{self._folder.checkpoint(step)} does not fit the model: {error}") from error
        return model

    def weights(self, step: int | None = None) -> dict[str, Tensor]:
        """Tensors of a checkpoint by name.

        Raises:
            RunError: If there is no such checkpoint, or it is damaged.
        """
        step = self._known(step)
        return self._foreign.model(step).state_dict() if self._foreign else self._folder.read_checkpoint(step)

    def weights_hash(self, step: int | None = None) -> str:
        """SHA-256 over the weights of a step: equal exactly if every bit is."""
        return tensor_hash(self.weights(step))

    def metrics(self) -> xr.Dataset:
        """Everything logged: one variable per metric, NaN where it was not logged or not finite; dimension `step`."""
        lines = self._folder.read_metrics()
        columns = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
        table = {name: ("step", np.array([_float(line.get(name)) for line in lines], dtype=float)) for name in columns}
        return xr.Dataset(table, {"step": [line["step"] for line in lines]}, attrs={"version": __version__})

    def __repr__(self) -> str:
        steps = self.steps
        reached = f"{len(steps)} checkpoints to step {steps[-1]}" if steps else "no checkpoint"
        task = (self._record.task or {}).get("name", "no task")
        return f"Run('{self.path}', {task}, {self.status}, {reached})"

    def _rebuilt(self, kind: type[Task]) -> Task | None:
        """The recorded task as this class understands it; settings that are newer than the Run take their default."""
        settings = dict(self._record.task or {})
        if settings.pop("name", None) != kind.name:
            return None
        try:
            return kind(**settings)
        except ConfigError as error:
            raise RunError(f"{self.path}: the recorded task does not fit this version: {error}") from error

    def _known(self, step: int | None) -> int:
        steps = self.steps
        if step is None and not steps:
            raise RunError(f"{self.path} has no checkpoint yet")
        return steps[-1] if step is None else step


class _Foreign:
    """Checkpoints of somebody else: files by step, and a function that loads one."""

    def __init__(self, paths: dict[int, Path], loader: Callable[[Path], nn.Module]) -> None:
        if not paths:
            raise RunError("no checkpoints were given")
        missing = [path for path in paths.values() if not path.exists()]
        if missing:
            raise RunError(f"{missing[0]} does not exist")
        self.paths, self._loader = paths, loader

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps, ascending."""
        return tuple(self.paths)

    def model(self, step: int) -> nn.Module:
        """What the loader makes of a step's file."""
        if step not in self.paths:
            near = min(self.paths, key=lambda one: abs(one - step))
            raise RunError(f"no checkpoint at step {step}: there are {len(self.paths)}; the nearest is {near}")
        with torch.no_grad():
            return self._loader(self.paths[step])


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
