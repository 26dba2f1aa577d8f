"""The interventions of one training as they come and go: what each begins with, and what acts at a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mechinterp.attribution import head_scores
from mechinterp.core import Batch, ConfigError, RunError, derive_seed
from mechinterp.interventions import EditedTransformer, StandingEdits
from mechinterp.models import Transformer
from mechinterp.tasks import Task
from mechinterp.training.config import TrainConfig
from mechinterp.training.folder import Folder
from mechinterp.training.interventions.apply import heads_by_layer, standing_edits
from mechinterp.training.interventions.common import HeadRole, Intervention
from mechinterp.training.interventions.on_activations import KeepFork
from mechinterp.training.interventions.on_weights import (
    ChangeSettings,
    FreezeWeights,
    ReinitialiseWeights,
    TransplantWeights,
)
from mechinterp.training.interventions.parts import Piece, clear_averages, pieces
from mechinterp.training.interventions.specs import AnyIntervention, Resolution
from mechinterp.training.tensors import tensor_hash


@dataclass(frozen=True)
class Conditions:
    """What a step of training draws its examples and its update from."""

    task: Task
    settings: TrainConfig
    seed: int

    @property
    def data_seed(self) -> int:
        """Seed of the examples."""
        return self.seed if self.settings.data_seed is None else self.settings.data_seed


class Course:
    """The interventions of one training, for its loop: `begin` at each step, `run` for the model, and around an update.

    Args:
        specs: The interventions, in order; those that begin at one step act in this order.
        model: Is trained.
        optimizer: Its optimiser.
        base: What is trained on without a change.

    Raises:
        ConfigError: If an address does not exist in the model, or a change has no meaning.
    """

    def __init__(
        self,
        specs: Sequence[AnyIntervention],
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        base: Conditions,
    ) -> None:
        self.specs = tuple(specs)
        self.resolutions: dict[int, Resolution] = {}
        self.now = base
        self._base, self._model, self._optimizer = base, model, optimizer
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._frozen: list[tuple[Piece, Tensor]] = []
        self._parameters = dict(model.named_parameters())
        self._edited: EditedTransformer | None = None
        self._edges = {spec.start for spec in specs} | {spec.end for spec in specs}
        self._begun = -1
        self._ready = False
        check_addresses(self.specs, model, base)

    def begin(self, step: int) -> None:
        """Start what starts at a step, and end what ends.

        Raises:
            RunError: If the weights of another Run are not there, or do not fit.
        """
        if self._ready and step not in self._edges:
            return
        # The state that a Run is continued from holds what began at its step or before.
        starting = [number for number, spec in enumerate(self.specs) if self._begun < step == spec.start]
        for number in starting:
            self._start(number, self.specs[number])
        self._begun, self._ready = step, True
        self.now = _conditions(self.specs, self._base, step)
        self._frozen = [
            (piece, piece.read(self._parameters))
            for number, spec in self._active(step)
            if isinstance(spec, FreezeWeights)
            for piece in self._pieces(number, spec)
        ]
        edits = edits_at(self.specs, self.resolutions, self._kept, self._model, step)
        self._edited = EditedTransformer(self._model, edits) if edits else None

    def run(self, inputs: Tensor) -> Tensor:
        """The model's output under the interventions of the step."""
        return self._model(inputs) if self._edited is None else self._edited(inputs)

    def mask_gradients(self) -> None:
        """What is frozen has no gradient."""
        gradients = {name: weight.grad for name, weight in self._parameters.items() if weight.grad is not None}
        for piece, _ in self._frozen:
            if piece.name in gradients:
                piece.write(gradients, 0.0)

    def put_back(self) -> None:
        """What is frozen is what it was before the update."""
        for piece, entries in self._frozen:
            piece.write(self._parameters, entries)

    def state(self) -> dict[str, Tensor]:
        """Tensors to continue from, beside weights and optimiser."""
        return {f"{number}.{name}": value for number, part in self._kept.items() for name, value in part.items()}

    def restore(self, tensors: Mapping[str, Tensor], resolutions: Mapping[int, Resolution], step: int) -> None:
        """Continue after a step."""
        self._kept, self.resolutions = kept_weights(tensors), dict(resolutions)
        self._begun, self._ready = step, False

    def check_sources(self) -> None:
        """See that the weights of other Runs are there, and fit.

        Raises:
            RunError: If they are not there.
            ConfigError: If they do not fit.
        """
        for number, spec in enumerate(self.specs):
            if isinstance(spec, TransplantWeights):
                weights, _ = _source(spec.run, spec.step)
                for piece in self._pieces(number, spec) if spec.role is None else ():
                    _check_fits(spec, piece, weights, self._parameters)
            elif spec.role is not None and spec.role.run is not None:
                _source(spec.role.run, spec.role.step)

    def _start(self, number: int, spec: Intervention) -> None:
        heads, origin = (), ""
        if spec.role is not None:
            heads, origin = resolve_role(spec.role, self._model, self._base.task)
            self.resolutions[number] = Resolution(heads=heads, weights=origin)
        if isinstance(spec, TransplantWeights):
            weights, origin = _source(spec.run, spec.step)
            self._replace(number, spec, weights)
            self.resolutions[number] = Resolution(heads=heads, weights=origin)
        elif isinstance(spec, ReinitialiseWeights):
            drawn = self._model.untrained(derive_seed(spec.seed, "reinitialise"))
            self._replace(number, spec, drawn.state_dict())
        elif isinstance(spec, KeepFork):
            self._kept[number] = {name: value.clone() for name, value in self._model.state_dict().items()}

    def _replace(
        self, number: int, spec: ReinitialiseWeights | TransplantWeights, weights: Mapping[str, Tensor]
    ) -> None:
        chosen = self._pieces(number, spec)
        for piece in chosen:
            if isinstance(spec, TransplantWeights):
                _check_fits(spec, piece, weights, self._parameters)
            piece.write(self._parameters, piece.read(weights).to(self._model.device))
        clear_averages(chosen, self._model, self._optimizer)

    def _active(self, step: int) -> list[tuple[int, Intervention]]:
        return [(number, spec) for number, spec in enumerate(self.specs) if spec.active(step)]

    def _pieces(self, number: int, spec: FreezeWeights | ReinitialiseWeights | TransplantWeights) -> list[Piece]:
        resolved = _resolved(number, spec, self.resolutions)
        return pieces(spec.part, getattr(resolved, "heads", None), self._model)


def edits_at(
    specs: Sequence[Intervention],
    resolutions: Mapping[int, Resolution],
    kept: Mapping[int, Mapping[str, Tensor]],
    model: Transformer,
    step: int,
) -> StandingEdits:
    """What changes each forward pass at a step.

    Raises:
        ConfigError: If a role was not resolved, or the weights of a `KeepFork` are not there.
    """
    models: dict[int, Transformer] = {}
    active = []
    for number, spec in enumerate(specs):
        if not spec.active(step):
            continue
        if number in kept:
            models[len(active)] = _model_with(kept[number], model)
        active.append(_resolved(number, spec, resolutions))
    return standing_edits(active, model, models)


def kept_weights(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Number of an intervention -> the weights that it keeps, from what `Course.state` returned."""
    kept: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        kept.setdefault(int(number), {})[name] = value
    return kept


def check_addresses(specs: Sequence[Intervention], model: Transformer, base: Conditions) -> None:
    """See that every address exists and every change has a meaning, before anything is trained.

    Raises:
        ConfigError: If not; says which intervention.
    """
    for number, spec in enumerate(specs):
        # Any head serves to see that the rest of an address exists.
        stand_in = spec if spec.role is None else spec.model_copy(update={"heads": ("L0",)})
        try:
            if isinstance(stand_in, FreezeWeights | ReinitialiseWeights | TransplantWeights):
                pieces(stand_in.part, getattr(stand_in, "heads", None), model)
            elif isinstance(stand_in, ChangeSettings):
                _conditions([stand_in], base, stand_in.start)
            else:
                standing_edits([stand_in], model)
        except ConfigError as error:
            raise ConfigError(f"intervention {number + 1} ({getattr(spec, 'kind', '?')}): {error}") from None
        if spec.start >= base.settings.steps:
            raise ConfigError(
                f"intervention {number + 1} starts at step {spec.start}, and the training ends at {base.settings.steps}"
            )


def resolve_role(role: HeadRole, model: Transformer, task: Task) -> tuple[tuple[str, ...], str]:
    """The heads that play a role best, and the hash of the weights that they were found in.

    Raises:
        ConfigError: If the role is undefined on the task, or the model has fewer heads.
    """
    weights = model.state_dict()
    if role.run is not None:
        weights, _ = _source(role.run, role.step)
        model = _model_with(weights, model)
    batch: Batch = task.batch(role.examples, derive_seed(role.seed, "role of heads"))
    scores = head_scores(model, batch).sel(score=role.role).mean("example").transpose("layer", "head").values
    if not (scores == scores).all():
        raise ConfigError(f"the role '{role.role}' is undefined on task '{task.name}'")
    if role.count > scores.size:
        raise ConfigError(f"the {role.count} best heads: the model has {scores.size}")
    order = (-scores.ravel()).argsort(kind="stable")[: role.count]
    heads = tuple(f"L{index // scores.shape[1]}.H{index % scores.shape[1]}" for index in order)
    heads_by_layer(heads, model)
    return heads, tensor_hash(weights)


def _resolved(number: int, spec: Intervention, resolutions: Mapping[int, Resolution]) -> Intervention:
    """The same, with heads in the place of a role."""
    if spec.role is None:
        return spec
    if number not in resolutions:
        raise ConfigError(f"intervention {number + 1}: its role '{spec.role.role}' is found at step {spec.start}")
    return spec.model_copy(update={"heads": resolutions[number].heads})


def _conditions(specs: Sequence[Intervention], base: Conditions, step: int) -> Conditions:
    """What holds at a step: later changes win."""
    task, settings = base.task, base.settings
    for spec in specs:
        if isinstance(spec, ChangeSettings) and spec.active(step):
            if spec.task:
                task = type(task).of({**task.model_dump(), **spec.task})
            settings = TrainConfig.of({**settings.model_dump(), **spec.training}) if spec.training else settings
    return Conditions(task, settings, base.seed)


def _source(run: str, step: int | None) -> tuple[dict[str, Tensor], str]:
    """Weights of another Run, and their hash."""
    folder = Folder(Path(run))
    steps = folder.steps()
    if step is None and not steps:
        raise RunError(f"{run} is no Run with a checkpoint: nothing can be taken from it")
    weights = folder.read_checkpoint(steps[-1] if step is None else step)
    return weights, tensor_hash(weights)


def _check_fits(
    spec: TransplantWeights, piece: Piece, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> None:
    wanted, there = parameters[piece.name], weights.get(piece.name)
    if there is None or there.shape != wanted.shape or there.dtype != wanted.dtype:
        has = "no such weights" if there is None else f"{list(there.shape)}"
        raise ConfigError(
            f"'{spec.part}' of {spec.run} does not fit: {piece.name} is {list(wanted.shape)} here, and there {has}"
        )


def _model_with(weights: Mapping[str, Tensor], like: Transformer) -> Transformer:
    model = Transformer(like.config, seed=None).to(like.device, like.dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the model: {' '.join(str(error).split())}") from error
    return model.requires_grad_(False)
