"""`Recorder` writes a Run folder, for our training loop and for any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mechinterp.core import ConfigError, DivergedError, RunError, Settings, UnsupportedError, checked
from mechinterp.interventions import check_plain
from mechinterp.models import ModelConfig
from mechinterp.tasks import Task
from mechinterp.training import files
from mechinterp.training.config import TrainConfig
from mechinterp.training.folder import Folder, part
from mechinterp.training.interventions import Resolution
from mechinterp.training.interventions.course import Course
from mechinterp.training.metrics_file import format_line
from mechinterp.training.record import RunRecord, current_versions, differences, read_record, write_record
from mechinterp.training.schedules import is_spaced
from mechinterp.training.tensors import (
    OptimizerNote,
    optimizer_tensors,
    read_tensors,
    restore_optimizer,
    tensor_hash,
    write_tensors,
)


class Recorder:
    """Keeps metrics, checkpoints and all that is needed to go on after a crash, bit for bit.

    Call it with the number of updates done so far; what it writes at that step are the weights as they are then::

        with mi.Recorder("runs/mine", model=model, task=task, optimizer=optimizer, resume=True) as rec:
            for step in range(rec.step, steps + 1):
                loss = ...                          # of the weights after `step` updates
                rec(step, loss=loss)
                if step < steps:
                    update(model, optimizer, loss)

    At a checkpoint it writes, in this order and each whole or not at all: metrics, weights, and last the state that
    names them. A process that dies anywhere leaves the last state valid; what lies beyond it is written again.

    Args:
        path: Folder of the Run.
        model: Any module; ours is opened again by `Run.model()` without help.
        task: What it is trained on.
        optimizer: Saved and restored with the weights.
        generators: Random generators that the loop draws from, saved and restored (`torch.default_generator` too).
        training: Settings of our loop; they decide `checkpoints` and `log_every`.
        seed: To remember.
        settings: Plain data of another loop, to remember; a Run is continued only with equal ones.
        checkpoints: Steps to keep; None for 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, ... (four for each doubling).
        keep: Checkpoints whose weights stay in the folder, beside the last step's; None for all. At the others only the
            state is written, to go on from, and the hash of the weights.
        log_every: Steps from one line of metrics to the next.
        course: The interventions of the training, recorded, and continued with it.
        resume: Continue what the folder holds. In a missing or empty folder training begins.

    Raises:
        RunError: If the folder holds a Run and `resume` is False, another Run, damaged files, or other files.
        UnsupportedError: If the model has hooks when it is recorded: weights do not tell of them, and every later
            measure would run without them. Interventions are named.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        task: Task | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        generators: Mapping[str, torch.Generator] | None = None,
        training: TrainConfig | None = None,
        seed: int | None = None,
        settings: Mapping[str, object] | None = None,
        checkpoints: Iterable[int] | None = None,
        keep: Iterable[int] | None = None,
        log_every: int = 1,
        course: Course | None = None,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.step = 0
        self.finished = False
        self._model, self._optimizer, self._generators = model, optimizer, dict(generators or {})
        self._course, self._resume = course, resume
        self._log_every = training.log_every if training else log_every
        steps = training.checkpoint_steps if training else checkpoints
        self._checkpoints = None if steps is None else frozenset(steps)
        config = getattr(model, "config", None)
        device = next((weight.device.type for weight in model.parameters()), "cpu")
        self._record = RunRecord(
            task=None if task is None else task.to_dict(),
            model=config if isinstance(config, ModelConfig) else None,
            training=training,
            settings=dict(settings or {}),
            interventions=() if course is None else course.specs,
            keep=None if keep is None else tuple(sorted(set(keep))),
            seed=seed,
            threads=torch.get_num_threads(),
            device=device,
            versions=current_versions(),
        )
        self._folder = Folder(self.path)
        self._last = -1
        self._saved: list[int] = []
        self._passed: dict[int, str] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Recorder:
        self._check_plain()
        self._folder.check(self._resume)
        files.make_folder(self.path)
        with ExitStack() as stack:
            stack.enter_context(files.locked(self.path))
            # Checked again under the lock: another process may have come and gone since.
            if self._folder.check(self._resume):
                self._continue()
            if not self.finished:
                self._write_record()
                files.make_folder(self._folder.checkpoints)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._exit:
            if self.finished:
                return
            diverged = kind is not None and issubclass(kind, DivergedError)
            status = "finished" if kind is None else "diverged" if diverged else "interrupted"
            if kind is None:
                self._finish()
            try:
                self._write_record(status)
            except RunError:
                # The first error matters more; the folder then still says `running`, and can be continued.
                if kind is None:
                    raise

    def logs(self, step: int) -> bool:
        """Whether a call at this step writes metrics: ask before computing any that cost time."""
        return step > self._last and (step % self._log_every == 0 or self.saves(step))

    def saves(self, step: int) -> bool:
        """Whether a call at this step keeps the weights."""
        return is_spaced(step) if self._checkpoints is None else step in self._checkpoints

    def __call__(self, step: int, **values: float | Tensor) -> None:
        """Record a step, if it is one to record.

        Args:
            step: Updates done so far; rising from call to call.
            **values: Metrics by name: numbers, or tensors of one element (read only if they are written).

        Raises:
            ConfigError: If the step does not rise, or a metric is called `step`.
            RunError: If the system cannot write.
        """
        if step == self._last == self.step:
            return  # The step that a continued Run begins with was recorded before.
        if step <= self._last:
            first = f"this Run goes on at step {self.step}: begin the loop there" if self.step else "steps rise"
            raise ConfigError(f"step {step} after step {self._last}; {first}")
        logs = self.logs(step)
        self._last = step
        if self._course is not None and self._course.resolutions != self._record.resolutions:
            self._write_record()
        if logs and values:
            files.append(self._folder.metrics, format_line(step, values))
        if self.saves(step):
            self._save(step)

    def _write_record(self, status: str = "running") -> None:
        known = {} if self._course is None else {"resolutions": dict(self._course.resolutions)}
        self._record = self._record.model_copy(update=known)
        write_record(self.path, self._record.model_copy(update={"status": status}))

    def _check_plain(self) -> None:
        try:
            check_plain(self._model)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{self.path} would record weights alone, and {error}; what shall act in training is given as "
                "interventions"
            ) from None

    def _finish(self) -> None:
        """The state must say that all was recorded, though the last steps were no checkpoints."""
        if self._last >= 0 and self._last not in self._saved:
            self._save(self._last, last=True)

    def _save(self, step: int, last: bool = False) -> None:
        self._check_plain()
        files.settle(self._folder.metrics)
        weights, keep = self._model.state_dict(), self._record.keep
        if last or keep is None or step in keep:
            write_tensors(self._folder.checkpoint(step), weights, {"kind": "checkpoint", "step": step})
            self._saved.append(step)
        if keep is not None:
            self._passed[step] = tensor_hash(weights)
        state = {f"weights.{name}": value for name, value in weights.items()}
        about: dict[str, object] = {"kind": "state", "step": step, "checkpoints": self._saved}
        about["metrics_bytes"] = self._folder.metrics.stat().st_size
        if self._passed:
            about["passed"] = {str(step): weights for step, weights in self._passed.items()}
        if self._optimizer is not None:
            tensors, about["optimizer"] = optimizer_tensors(self._optimizer)
            state |= {f"optimizer.{name}": value for name, value in tensors.items()}
        state |= {f"generator.{name}": gen.get_state() for name, gen in self._generators.items()}
        if self._course is not None:
            state |= {f"interventions.{name}": value for name, value in self._course.state().items()}
            about["resolutions"] = {str(n): one.model_dump(mode="json") for n, one in self._course.resolutions.items()}
        write_tensors(self._folder.state, state, about)

    def _continue(self) -> None:
        """Put model, optimiser, generators and files back to the last state."""
        old = read_record(self.path)
        changes = differences(old, self._record)
        if changes:
            raise RunError(f"{self.path} cannot be continued: {'; '.join(changes)}")
        if not self._folder.has_state():
            files.cut(self._folder.metrics, 0)
            return
        tensors, about = read_tensors(self._folder.state)
        note = checked(about, _StateNote, f"{self._folder.state} is no state of a Run")
        for step in note.checkpoints:
            self._folder.read_checkpoint(step)
        self._folder.check_metrics(note.metrics_bytes)
        self._restore(tensors, note)
        self._saved, self._passed = list(note.checkpoints), dict(note.passed)
        self._last = self.step = note.step
        self.finished = old.status == "finished"
        if not self.finished:
            files.cut(self._folder.metrics, note.metrics_bytes)

    def _restore(self, tensors: Mapping[str, Tensor], note: _StateNote) -> None:
        """Check first that all fits, then change the caller's objects: an error leaves them as they were."""
        where = self._folder.state
        weights, optimizer, generators = (part(tensors, kind) for kind in ("weights", "optimizer", "generator"))
        if _shapes(self._model.state_dict()) != _shapes(weights):
            raise RunError(f"{where}: the saved weights do not fit this model (names, shapes or types differ)")
        if (self._optimizer is None) != (note.optimizer is None):
            raise RunError(f"{where} was saved with{'' if note.optimizer else 'out'} an optimiser; do the same now")
        if set(generators) != set(self._generators):
            raise RunError(f"{where} has generators {sorted(generators)}, not {sorted(self._generators)}")
        if self._optimizer is not None and note.optimizer is not None:
            restore_optimizer(self._optimizer, optimizer, note.optimizer)
        self._model.load_state_dict(weights)
        for name, gen in self._generators.items():
            gen.set_state(generators[name])
        if self._course is not None:
            self._course.restore(part(tensors, "interventions"), note.resolutions, note.step)


class _StateNote(Settings):
    """What `state.safetensors` says beside its tensors."""

    kind: Literal["state"]
    step: int
    checkpoints: tuple[int, ...]
    metrics_bytes: int = Field(ge=0)
    optimizer: OptimizerNote | None = None
    resolutions: dict[int, Resolution] = Field(default_factory=dict)
    passed: dict[int, str] = Field(default_factory=dict)
    sha256: str


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}
