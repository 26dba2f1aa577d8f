"""`Run`: a training run on disk, opened for reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import commonpath
from pathlib import Path
from typing import TypeVar

import xarray as xr
from torch import Tensor, nn

from mechinterp.core import ConfigError, RunError, UnsupportedError, checked
from mechinterp.interventions import EditedTransformer
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task, names, task_class
from mechinterp.training.files import make_folder
from mechinterp.training.folder import Folder, nearest
from mechinterp.training.foreign import Foreign, LoadedCheckpoints
from mechinterp.training.hashes import FileHashes
from mechinterp.training.hub import HubCheckpoints, HubSource
from mechinterp.training.interventions import KeepFork
from mechinterp.training.interventions.course import edits_at, kept_weights
from mechinterp.training.metrics_file import as_dataset
from mechinterp.training.record import RunRecord, current_versions, read_record, write_record
from mechinterp.training.tensors import tensor_hash


class Run:
    """A folder with configuration, checkpoints by step, and metrics.

    Opening a Run runs no code that comes with it: files are JSON and safetensors, and a task of the user's is needed
    only where examples are drawn.

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
        source = self._record.source
        self._foreign: Foreign | None = HubCheckpoints(source, FileHashes(self.path)) if source else None
        recorded = self._record.task
        if task is not None and recorded and (recorded.get("name") != task.name or self._rebuilt(type(task)) != task):
            raise RunError(f"{self.path} was trained on {self._record.task}, not on {task.to_dict()}")

    @classmethod
    def from_checkpoints(
        cls,
        paths: Mapping[int, str | Path],
        loader: Callable[[Path], nn.Module],
        task: Task | None = None,
        out: str | Path | None = None,
    ) -> Run:
        """Checkpoints that another program wrote, as a Run; the files stay where they are.

        Args:
            paths: Step -> file or folder.
            loader: Makes the model from one of them. Its text, and the plain values and settings that it uses, count to
                what names the weights: measurements made with another loader are repeated.
            task: What the models are analysed with.
            out: Where results about them are kept; None is a folder `mechinterp` beside the checkpoints.

        Raises:
            RunError: If there are no checkpoints, or one does not exist.
        """
        run = cls.__new__(cls)
        places = {int(step): Path(path) for step, path in sorted(paths.items())}
        parents = commonpath([path.absolute().parent for path in places.values()] or [Path.cwd()])
        run.path = Path(out) if out is not None else Path(parents) / "mechinterp"
        run._folder = Folder(run.path)
        run._foreign = LoadedCheckpoints(places, loader, FileHashes(run.path))
        run._record = RunRecord(task=None if task is None else task.to_dict(), status="finished")
        run._task, run._build = task, None
        return run

    @classmethod
    def from_hf(
        cls,
        name: str | Path,
        revisions: Mapping[int, str],
        task: Task | None = None,
        out: str | Path | None = None,
        *,
        cache_dir: str | Path | None = None,
        n_ctx: int | None = None,
    ) -> Run:
        """Checkpoints of Hugging Face's hub, or of a folder in its format, as a Run.

        `transformers` loads each one when it is needed, in float32, and `from_hf` converts and compares it; one is in
        memory at a time. What the hub's cache holds is used as it is; a revision that is not in it is downloaded into
        it. No code that comes with a model is run.

        Args:
            name: A repository (`EleutherAI/pythia-70m`), or a folder with a sub-folder for each checkpoint.
            revisions: Step -> branch, tag or commit of the repository; or name of the sub-folder.
            task: What the models are analysed with.
            out: Folder of the Run. It is made, and records where the checkpoints lie: `Run(out)` and the command line
                open it again. None is `mechinterp` in the folder, and `runs/<name>` for a repository.
            cache_dir: The hub's cache; None for the usual one.
            n_ctx: The longest sequence, at most the model's own.

        Raises:
            ConfigError: If there are no revisions, or the name is neither a folder nor a repository's.
            RunError: If a sub-folder is missing, or `out` holds anything else.
        """
        source = HubSource.at(name, revisions, cache_dir, n_ctx)
        default = Path(source.name) / "mechinterp" if source.folder else Path("runs") / Path(source.name).name
        path = default if out is None else Path(out)
        plain = None if task is None else task.to_dict()
        if Folder(path).check(resume=True):
            held = read_record(path)
            plain = held.task if plain is None else plain
            if held.source is None or held.source.name != source.name or held.task not in (None, plain):
                raise RunError(f"{path} holds a Run of other checkpoints or another task: choose another folder")
        make_folder(path)
        write_record(path, RunRecord(task=plain, source=source, versions=current_versions(), status="finished"))
        return cls(path, task)

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
        name = str(recorded.get("name"))
        if name not in names():
            raise UnsupportedError(
                f"{self.path} was trained on the task '{name}', which is not known here: import the "
                "module that defines it, or open the Run as Run(path, task=...); on the command line, "
                "--task FILE.py:CLASS"
            )
        return self._rebuilt(task_class(name))

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending; the folder is read each time, so a Run can be watched while it trains."""
        return self._foreign.steps if self._foreign else self._folder.steps()

    @property
    def passed(self) -> Mapping[int, str]:
        """Checkpoints that training passed -> hash of their weights, where only some kept them; else empty."""
        return {} if self._record.keep is None else self._folder.passed()

    def model(self, step: int | None = None, interventions: bool = False) -> nn.Module:
        """A new model with the weights of a step.

        Args:
            step: One of `steps`; None is the last.
            interventions: False for the plain model. True for the model as training ran it at that step, under the
                interventions that acted then on its forward pass: an `EditedTransformer`, where there were any.

        Raises:
            RunError: If there is no such checkpoint, or it is damaged or does not fit.
            ConfigError: If the Run was trained without interventions, and they are asked for.
            UnsupportedError: If the model is not ours and the Run was opened without `build`.
        """
        step = self._known(step)
        if interventions:
            return self._edited(step)
        if self._foreign:
            return self._foreign.model(step)
        weights, where = self._weights(step), str(self._folder.checkpoint(step))
        if self._build is not None:
            return _loaded(self._build(), weights, where)
        if self._record.model is None:
            raise UnsupportedError(f"{self.path} holds a model that is not ours: open it as Run(path, build=...)")
        return build_model(self._record.model, weights, where)

    def _edited(self, step: int) -> nn.Module:
        record = self._record
        if not record.interventions:
            raise ConfigError(f"{self.path} was trained without interventions: there is only the plain model")
        model, kept = self.model(step), {}
        if not isinstance(model, Transformer):
            raise UnsupportedError(f"{self.path} holds a model that is not ours: interventions cannot act on it")
        if any(isinstance(one, KeepFork) and one.active(step) for one in record.interventions):
            kept = kept_weights(self._folder.kept())
        edits = edits_at(record.interventions, record.resolutions, kept, model, step)
        return EditedTransformer(model, edits) if edits else model

    def weights(self, step: int | None = None) -> dict[str, Tensor]:
        """Tensors of a checkpoint by name.

        Raises:
            RunError: If there is no such checkpoint, or it is damaged.
        """
        step = self._known(step)
        return self._foreign.model(step).state_dict() if self._foreign else self._weights(step)

    def weights_hash(self, step: int | None = None) -> str:
        """SHA-256 over the weights of a step: equal exactly if every bit is; known also where they were not kept.

        Of checkpoints that another program wrote it is the hash of their files; no model is made for it, and a file is
        read again only if it changed.
        """
        step = self._known(step)
        if self._foreign:
            return self._foreign.weights_hash(step)
        if self._record.keep is not None and step in (passed := self.passed):
            return passed[step]
        return tensor_hash(self.weights(step))

    def metrics(self) -> xr.Dataset:
        """Everything logged: one variable per metric, NaN where it was not logged or not finite; dimension `step`."""
        return as_dataset(self._folder.read_metrics())

    def __repr__(self) -> str:
        steps = self.steps
        reached = f"{len(steps)} checkpoints to step {steps[-1]}" if steps else "no checkpoint"
        task = (self._record.task or {}).get("name", "no task")
        return f"Run('{self.path}', {task}, {self.status}, {reached})"

    def _weights(self, step: int) -> dict[str, Tensor]:
        """Of a checkpoint; of the last state, where the checkpoint's were not kept."""
        if self._record.keep is not None and not self._folder.checkpoint(step).exists():
            passed = self.passed
            reached, weights = self._folder.last_state() if passed else (-1, {})
            if step == reached:
                return weights
            if step in passed:
                raise RunError(f"{self.path} did not keep the weights of step {step}: {nearest(step, self.steps)}")
        return self._folder.read_checkpoint(step)

    def _rebuilt(self, kind: type[Task]) -> Task:
        """The recorded task as this class understands it; settings that are newer than the Run take their default."""
        settings = {name: value for name, value in (self._record.task or {}).items() if name != "name"}
        return checked(settings, kind, f"{self.path}: the recorded task does not fit this version")

    def _known(self, step: int | None) -> int:
        steps = self.steps
        if step is None and not steps:
            raise RunError(f"{self.path} has no checkpoint yet")
        if self._foreign and step is not None and step not in steps:
            raise RunError(f"no checkpoint at step {step}: {nearest(step, steps)}")
        return steps[-1] if step is None else step


def build_model(config: ModelConfig, weights: Mapping[str, Tensor], where: str) -> Transformer:
    """A model with these weights.

    Args:
        config: Its architecture; it may come from a file.
        weights: By name.
        where: Where they come from, for the message.

    Raises:
        RunError: If the weights do not fit.
    """
    entries = sum(value.numel() for value in weights.values())
    if config.n_weights > entries:  # before memory is taken for it
        raise RunError(f"{where} does not fit the model: it holds {entries:,} numbers, and the settings ask for more")
    return _loaded(Transformer(config), weights, where)


_M = TypeVar("_M", bound=nn.Module)


def _loaded(model: _M, weights: Mapping[str, Tensor], where: str) -> _M:
    kinds = {name: value.is_floating_point() for name, value in model.state_dict().items()}
    wrong = [name for name, value in weights.items() if kinds.get(name, True) != value.is_floating_point()]
    if wrong:
        raise RunError(f"{where} does not fit the model: '{wrong[0]}' is of type {weights[wrong[0]].dtype}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{where} does not fit the model: {' '.join(str(error).split())}") from error
    return model
