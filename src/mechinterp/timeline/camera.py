"""All measures of one checkpoint, from a store where it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xarray as xr
from typing_extensions import Protocol, runtime_checkable

from mechinterp._version import __version__
from mechinterp.core import ConfigError, RunLike, suggest
from mechinterp.core.digest import digest
from mechinterp.core.memo import remembering
from mechinterp.measures import Measure
from mechinterp.tasks import Task
from mechinterp.timeline.store import LAYOUT, Store, architecture, as_stored, interventions_of, summarise
from mechinterp.training import Run


@runtime_checkable
class Traceable(RunLike, Protocol):
    """A `Run`, or anything with its checkpoints and their hashes."""

    def weights_hash(self, step: int) -> str:
        """Hash of the weights at a step."""
        ...


@dataclass(frozen=True, eq=False)
class Camera:
    """Takes all measures of one checkpoint, from the store where it has them.

    Args:
        run: The Run.
        measures: By name.
        task: Draws the examples.
        seed: Of the examples.
        place: Part of every measurement's place: seed and, where it is not the Run's, task.
        origin: Part of every measurement's origin.
        store: Keeps them.
        keep_examples: Whether single examples are kept.
        interventions: Whether the model is run under the interventions of its training; None where there were none.
        before_writing: Called before anything is measured.
    """

    run: Traceable
    measures: Mapping[str, Measure]
    task: Task
    seed: int
    place: str
    origin: Mapping[str, str]
    store: Store
    keep_examples: bool
    interventions: bool | None = None
    before_writing: Callable[[], None] = lambda: None

    @classmethod
    def of(
        cls,
        run: Traceable,
        measures: Mapping[str, Measure],
        seed: int,
        on: Task | str | None,
        store: Store,
        keep_examples: bool,
        interventions: bool = False,
    ) -> Camera:
        """A camera for a Run.

        Args:
            run: The Run.
            measures: By name.
            seed: Of the examples.
            on: Another task than the Run's, or one of its variants by name.
            store: Keeps the measurements.
            keep_examples: Whether single examples are kept.
            interventions: Whether to run the model under the interventions of its training.

        Raises:
            ConfigError: If the task has no such variant, or the Run was trained without interventions.
        """
        task = _task(run.task, on)
        place = f"seed{seed}" if on is None else f"seed{seed}-{_folder(on)}"
        origin = {"task": digest(task.to_dict()), "seed": str(seed), "version": __version__, "layout": LAYOUT}
        origin["model"] = architecture(run)
        trained_under = bool(interventions_of(run, 0))
        if interventions and not trained_under:
            raise ConfigError(f"{run.path} was trained without interventions: measure the plain model")
        place = f"{place}-intervened" if interventions else place
        under = interventions if trained_under else None
        return cls(run, measures, task, seed, place, origin, store, keep_examples, under)

    def at(self, step: int, taken: Callable[[str], None]) -> dict[str, xr.Dataset]:
        """Measure name -> its summary at a step; `taken` hears of each."""
        weights, model, parts = self.run.weights_hash(step), None, {}
        under = {"interventions": interventions_of(self.run, step)} if self.interventions else {}
        with remembering("runs"):
            for name, measure in self.measures.items():
                origin = {**self.origin, **under, "measure": str(measure), "code": measure.code, "weights": weights}
                where = f"{measure.key}-{self.place}/{step:08d}"
                part = self.store.read(where, origin, self.keep_examples)
                if part is None:
                    self.before_writing()
                    model = self._model(step) if model is None else model
                    values = measure(model, self.task, self.seed)
                    if self.interventions is not None:
                        values = values.assign_attrs(interventions="with" if self.interventions else "without")
                    values = values.assign_attrs(example_dim="example" in values.dims)
                    # As it will be read: a trace that is continued gives the same bytes as one that is not.
                    part = as_stored(summarise(values, self.keep_examples))
                    self.store.write(where, part, origin)
                parts[name] = part
                taken(name)
        return parts

    def _model(self, step: int) -> object:
        if self.interventions and isinstance(self.run, Run):
            return self.run.model(step, interventions=True)
        return self.run.model(step)


def _task(task: Task, on: Task | str | None) -> Task:
    if not isinstance(on, str):
        return task if on is None else on
    known = task.variants()
    if on not in known:
        raise ConfigError(
            f"task '{task.name}' has no variant '{on}'.{suggest(on, known) if known else ' It has none.'}"
        )
    return known[on]


def _folder(on: Task | str) -> str:
    if isinstance(on, str):
        return on
    return f"{on.name}-{digest(on.to_dict(), 8)}"
