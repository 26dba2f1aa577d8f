"""A timeline that grows with its Run: measures are taken in training, at each checkpoint, and weights need not stay."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from mechinterp.core.memo import remembering
from mechinterp.core.progress import StepProgress
from mechinterp.measures import Measure
from mechinterp.measures.registry import function_of
from mechinterp.models import ModelConfig
from mechinterp.tasks import Task
from mechinterp.timeline.camera import Camera
from mechinterp.timeline.store import Files
from mechinterp.timeline.tracing import What, named_measures
from mechinterp.training import Run, TrainConfig
from mechinterp.training import train as train_alone
from mechinterp.training.interventions import Intervention


@dataclass(frozen=True, eq=False)
class Measuring:
    """Takes measures at a checkpoint of a training, and puts them where `trace` reads them.

    Args:
        measures: By name.
        seed: Of the examples; the same ones at all checkpoints.
        interventions: Where training is intervened in: False takes the plain model, True the model as training runs it,
            None both.
        modules: Define the measures; imported where they are taken, which may be another process.
    """

    measures: Mapping[str, Measure]
    seed: int = 0
    interventions: bool | None = False
    modules: tuple[str, ...] = ()
    _draws: dict[Hashable, object] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        measures: What | Sequence[What] | Mapping[str, What],
        seed: int = 0,
        interventions: bool | None = False,
    ) -> Measuring:
        """The same from names, in whichever process it is called.

        Raises:
            ConfigError: If there is no measure, one is unknown, or one is named twice.
        """
        chosen = named_measures(measures)
        modules = {function_of(one.name).__module__ for one in chosen.values()}
        return cls(chosen, seed, interventions, tuple(sorted(modules - {"__main__"})))

    def __call__(self, run: Run, step: int) -> None:
        """Take them, unless they were taken at this step before."""
        for module in self.modules:
            import_module(module)
        store = Files(run.path / "timeline", patient=True)
        changed = bool(run.config.interventions)
        flags = (False, True) if self.interventions is None and changed else (bool(self.interventions) and changed,)
        with remembering("draws", self._draws), store.alone() as alone:
            for flag in flags:
                camera = Camera.of(run, self.measures, self.seed, None, store, False, flag)
                alone()
                camera.at(step, _unheard)


def _unheard(name: str) -> None:
    pass


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
    measures: What | Sequence[What] | Mapping[str, What] = (),
    measure_seed: int = 0,
    measure_interventions: bool | None = False,
    **overrides: object,
) -> Run:
    """Train a transformer on a task and keep all of it in a folder, measuring on the way.

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
        keep: Checkpoints whose weights stay in the folder, beside the last step's, `[]` for the last alone; None for
            all. `Run.steps` has those that stay, and a `trace` of the Run reads what was measured at all others.
        measures: Taken at every checkpoint, as in `trace`. A later `trace` with the same parameters reads them, and
            equals, byte for byte, one that is made afterwards.
        measure_seed: The `seed` of that trace.
        measure_interventions: Its `interventions`; None for both.
        **overrides: Single settings of model or training, such as `n_layers=1` or `steps=500`.

    Returns:
        The finished Run.

    Raises:
        ConfigError: If a setting or measure is unknown or has no meaning, or an intervention does not fit the model.
        UnsupportedError: If the task has no preset and no model is given, or model or task lack what a measure needs.
        RunError: If the folder holds a Run and `resume` is False, or something else, or cannot be written.
    """
    at_checkpoint = Measuring.of(measures, measure_seed, measure_interventions) if measures else None
    return train_alone(
        task, model, training, seed, out, resume, progress, interventions, keep, at_checkpoint, **overrides
    )
