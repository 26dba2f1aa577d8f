"""What claims are checked on: a trained model with its history, and what it was before its first update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import xarray as xr

from mechinterp.claims.schema import ROLES
from mechinterp.core import RunError, UnsupportedError, derive_seed
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Task, from_dict
from mechinterp.training import Run


@dataclass(frozen=True, eq=False)
class Subject:
    """One trained model.

    Args:
        task: What it was trained on.
        seed: Of its training; examples it is measured on are drawn from it, too.
        config: Its architecture.
        run: Its checkpoints; None for a model without history.
        final: The trained model.
        tables: What was measured already, for the claims that ask for another part of it.
    """

    task: Task
    seed: int
    config: ModelConfig
    final: Transformer
    run: Run | None = None
    tables: dict[Any, tuple[Transformer, xr.DataArray]] = field(default_factory=dict, repr=False)
    _steps: dict[int, Transformer] = field(default_factory=dict, repr=False)
    _roles: dict[tuple[bool, str], tuple[int, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run) -> Subject:
        """The model at the end of a Run of ours.

        Raises:
            RunError: If the Run's model is not ours, or its seed unknown.
        """
        if run.config.model is None or run.seed is None:
            raise RunError(f"{run.path} does not record model and seed: claims are checked on Runs of train()")
        model = run.model()
        if not isinstance(model, Transformer):
            raise UnsupportedError(f"{run.path} holds a {type(model).__name__}: claims are checked on a Transformer")
        return cls(run.task, run.seed, run.config.model, model, run)

    def at(self, step: int | str) -> Transformer:
        """The model at `final`, `untrained` or a checkpoint's step.

        Raises:
            UnsupportedError: If it has no history, or no checkpoint there.
        """
        if step in ("final", "untrained"):
            return self.final if step == "final" else self.untrained
        if self.run is None or step not in self.run.steps:
            known = "no history" if self.run is None else f"checkpoints at {', '.join(map(str, self.run.steps))}"
            raise UnsupportedError(f"no checkpoint at step {step}: this model has {known}")
        model = self._steps.get(int(step)) or self.run.model(int(step))
        if not isinstance(model, Transformer):
            raise UnsupportedError(f"step {step} is a {type(model).__name__}: claims are checked on a Transformer")
        return self._steps.setdefault(int(step), model)

    @cached_property
    def untrained(self) -> Transformer:
        """What training began with."""
        return Transformer(self.config, seed=derive_seed(self.seed, "model"))

    def reseeded(self, seed: int) -> Subject:
        """The same with another seed: other examples, and another untrained model."""
        return Subject(self.task, seed, self.config, self.final)

    def changed_task(self, changes: Mapping[str, Any]) -> Task:
        """The task with some settings changed."""
        return from_dict({**self.task.to_dict(), **changes}) if changes else self.task

    def role(self, model: Transformer, name: str) -> tuple[int, int]:
        """Layer and head of the head that plays a role in a model, chosen on examples that are not measured.

        Args:
            model: `final` or `untrained`.
            name: The role.
        """
        key = (model is self.final, name)
        if key not in self._roles:
            scores = measure("head_scores")(model, self.task, derive_seed(self.seed, "claims", "roles"))
            table = scores.sel(score=ROLES[name])
            table = table.mean("example") if "example" in table.dims else table
            if not table.notnull().all():
                raise UnsupportedError(f"the role '{name}' is undefined here: its score is NaN for some head")
            best = int(table.transpose("layer", "head").values.argmax())
            self._roles[key] = divmod(best, table.sizes["head"])
        return self._roles[key]
