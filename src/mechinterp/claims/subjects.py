"""What claims are checked on: a trained model with its checkpoints, and the same model before its first update."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import xarray as xr

from mechinterp.attribution import best_head, head_types
from mechinterp.core import RunError, UnsupportedError, derive_seed
from mechinterp.measures import Measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task, from_dict
from mechinterp.timeline import Store, trace
from mechinterp.training import Run


@dataclass(frozen=True, eq=False)
class Subject:
    """One trained model.

    Args:
        task: What it is trained on.
        seed: Of its training; the examples that it is measured on derive from it, too.
        config: Its architecture.
        final: The trained model.
        run: Its checkpoints, which are opened one at a time; None for a model without history.
        store: Where measurements of checkpoints are kept; None for the Run's folder.
    """

    task: Task
    seed: int
    config: ModelConfig
    final: Transformer
    run: Run | None = None
    store: Store | None = None
    _tables: dict[tuple[Measure, int | str, str], xr.DataArray] = field(default_factory=dict, repr=False)
    _types: dict[str, xr.Dataset] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run) -> Subject:
        """The model at the end of a Run that `train` wrote.

        Raises:
            RunError: If the Run's model is not ours, or its seed unknown.
        """
        if run.config.model is None or run.seed is None:
            raise RunError(f"{run.path} does not record model and seed: claims are checked on Runs of train()")
        model = run.model()
        if not isinstance(model, Transformer):
            raise UnsupportedError(f"{run.path} holds a {type(model).__name__}: claims are checked on a Transformer")
        return cls(run.task, run.seed, run.config.model, model, run)

    @cached_property
    def untrained(self) -> Transformer:
        """What training begins with."""
        return Transformer(self.config, seed=derive_seed(self.seed, "model"))

    def reseeded(self, seed: int) -> Subject:
        """The same with another seed: other examples, and another untrained model."""
        return Subject(self.task, seed, self.config, self.final)

    def before_training(self, seed: int) -> Subject:
        """What training from another seed begins with, in the place of the trained model; it has no history."""
        return Subject(self.task, seed, self.config, Transformer(self.config, seed=derive_seed(seed, "model")))

    def table(self, measure: Measure, step: int | str, changes: Mapping[str, object]) -> xr.DataArray:
        """A measure of one model.

        Args:
            measure: The measure.
            step: `final`, `untrained`, or the step of a checkpoint.
            changes: Settings of the task that differ from those of the training.

        Raises:
            UnsupportedError: If there is no history, or no checkpoint at the step.
        """
        if step not in ("final", "untrained"):
            return self._traced(measure, changes, int(step)).isel(step=0)
        key = (measure, step, json.dumps(changes, sort_keys=True))
        if key not in self._tables:
            model = self.final if step == "final" else self.untrained
            self._tables[key] = measure(model, self._task(changes), self._examples)
        return self._tables[key]

    def history(self, measure: Measure, changes: Mapping[str, object]) -> xr.DataArray:
        """A measure at every checkpoint: the table with `step` as first dimension.

        Raises:
            UnsupportedError: If there is no history.
        """
        return self._traced(measure, changes)

    def head(self, head_type: str, of: str = "final") -> tuple[int, int]:
        """Layer and head of the best head of a type, chosen on other examples than those that are measured.

        Args:
            head_type: One of `HEAD_TYPES`.
            of: `final` or `untrained`.

        Raises:
            UnsupportedError: If the type is not defined for the task.
        """
        if of not in self._types:
            model = self.final if of == "final" else self.untrained
            self._types[of] = head_types(model, self.task, seed=derive_seed(self.seed, "claims", "roles"))
        layer, head = best_head(self._types[of], head_type).removeprefix("L").split(".H")
        return int(layer), int(head)

    @property
    def _examples(self) -> int:
        return derive_seed(self.seed, "claims", "examples")

    def _task(self, changes: Mapping[str, object]) -> Task:
        return from_dict({**self.task.to_dict(), **changes}) if changes else self.task

    def _traced(self, measure: Measure, changes: Mapping[str, object], step: int | None = None) -> xr.DataArray:
        """The measure at one checkpoint or all, with single examples where it has any."""
        if self.run is None:
            raise UnsupportedError("this claim is about training: it needs a Run with checkpoints, not a single model")
        if step is not None and step not in self.run.steps:
            known = ", ".join(map(str, self.run.steps))
            raise UnsupportedError(f"no checkpoint at step {step}: this model has checkpoints at {known}")
        steps = None if step is None else [step]
        task = self._task(changes) if changes else None
        timeline = trace(
            self.run, measure, self._examples, steps=steps, keep_examples=True, on=task, store=self.store
        )  # fmt: skip
        name = measure.name
        return timeline[f"{name}_examples" if f"{name}_examples" in timeline else name]
