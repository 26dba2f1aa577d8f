"""`trace`: measures at every checkpoint of a Run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr
from typing_extensions import Protocol, runtime_checkable

from mechinterp._version import __version__
from mechinterp.core import ConfigError, RunError, RunLike, suggest
from mechinterp.core.digest import digest
from mechinterp.core.progress import Bars, Progress
from mechinterp.measures import Measure, as_measure
from mechinterp.tasks import Task
from mechinterp.timeline.store import LAYOUT, Files, Store, architecture, as_stored, summarise

What = str | Measure


@runtime_checkable
class Traceable(RunLike, Protocol):
    """A `Run`, or anything with its checkpoints and their hashes."""

    def weights_hash(self, step: int) -> str:
        """Hash of the weights at a step."""
        ...


def trace(
    run: Traceable,
    measures: What | Sequence[What] | Mapping[str, What],
    seed: int = 0,
    steps: Sequence[int] | None = None,
    keep_examples: bool = False,
    progress: bool | Progress = False,
    on: Task | str | None = None,
    store: Store | None = None,
) -> xr.Dataset:
    """Measure every checkpoint of a Run, one model at a time; a stored measurement is read, not taken again.

    Each measure of each checkpoint is one file `<run>/timeline/<measure key>-seed<seed>/<step>.nc`, written whole or
    not at all, so an interrupted trace continues where it stopped. Its key is the weights' hash, the task, the
    measure's parameters and own code, the seed and the version: if any of them changes, the measurement is repeated.
    So is one whose file is damaged; these are derived data and nothing is lost.

    Args:
        run: A `Run`, or anything with `path`, `steps`, `task`, `model(step)` and `weights_hash(step)`.
        measures: Names, `mi.measure(...)` objects, or a mapping from your own names to them (needed to trace one
            measure with two sets of parameters).
        seed: The examples; the same ones at all checkpoints.
        steps: Some of the Run's steps; default all.
        keep_examples: Keep single examples too.
        progress: True for bars, or a function called with (measure, checkpoints done, checkpoints).
        on: Measure on another task than the Run's own, or on one of its `variants()`, by name: conditions that are
            absent from training.
        store: Where measurements are kept; default is the Run's folder. A `Memory()` writes nothing to disk.

    Returns:
        A Timeline. For every measure `<name>`, `<name>_se` and `<name>_n`: mean, standard error and count over
        examples, with `step` as first dimension and then the measure's own; with `keep_examples` also
        `<name>_examples`, last of all by `example`. A measure that has no examples (weights alone) has NaN standard
        errors and counts of 1. Its attributes (metric, direction, seed, ...) stand on `<name>`.

    Raises:
        ConfigError: If a measure is unknown or named twice, two of them label one dimension differently, or the task
            has no such variant.
        RunError: If a step has no checkpoint.
        UnsupportedError: If model or task lack what a measure needs; says which measure.
    """
    chosen = _named(measures)
    wanted = _steps(run, steps)
    task = _task(run.task, on)
    place = f"seed{seed}" if on is None else f"seed{seed}-{_folder(on)}"
    common = {"task": digest(task.to_dict()), "seed": str(seed), "version": __version__, "layout": LAYOUT}
    common["model"] = architecture(run)
    store = Files(Path(run.path) / "timeline") if store is None else store
    parts: dict[str, list[xr.Dataset]] = {name: [] for name in chosen}
    with Bars(progress) as show:
        for done, step in enumerate(wanted, start=1):
            weights, model = run.weights_hash(step), None
            for name, measure in chosen.items():
                own = {"measure": str(measure), "code": measure.code, "weights": weights}
                where, origin = f"{measure.key}-{place}/{step:08d}", {**common, **own}
                part = store.read(where, origin, keep_examples)
                if part is None:
                    model = run.model(step) if model is None else model
                    values = measure(model, task, seed)
                    summary = summarise(values.assign_attrs(example_dim="example" in values.dims), keep_examples)
                    # As it will be read: a trace that is continued gives the same bytes as one that is not.
                    part = as_stored(summary)
                    store.write(where, part, origin)
                parts[name].append(part)
                show(name, done, len(wanted))
            if step == wanted[0]:
                _check_labels({name: some[0] for name, some in parts.items()})
    return _timeline(parts, wanted, keep_examples).assign_attrs(run=str(run.path), seed=seed, version=__version__)


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


def _named(measures: What | Sequence[What] | Mapping[str, What]) -> dict[str, Measure]:
    if isinstance(measures, str | Measure):
        measures = [measures]
    if isinstance(measures, Mapping):
        chosen = {name: as_measure(item) for name, item in measures.items()}
    else:
        listed = [as_measure(item) for item in measures]
        chosen = {item.name: item for item in listed}
        twice = sorted({item.name for item in listed if sum(other.name == item.name for other in listed) > 1})
        if twice:
            raise ConfigError(f"'{twice[0]}' is traced twice: name them, as in trace(run, {{'a': ..., 'b': ...}})")
    if not chosen:
        raise ConfigError("trace needs at least one measure")
    return chosen


def _steps(run: RunLike, steps: Sequence[int] | None) -> list[int]:
    known = list(run.steps)
    if not known:
        raise RunError(f"{run.path} has no checkpoint yet")
    if steps is None:
        return known
    missing = [step for step in steps if step not in known]
    if missing:
        raise RunError(f"no checkpoint at step {missing[0]}.{suggest(str(missing[0]), map(str, known))}")
    return sorted(set(steps))


def _check_labels(first: Mapping[str, xr.Dataset]) -> None:
    """Refuse measures that would have to share a dimension without agreeing on it, before hours are spent."""
    owners: dict[str, tuple[str, object]] = {}
    for name, part in first.items():
        for dim in map(str, part.sizes):
            labels = part[dim].values.tolist() if dim in part.coords else part.sizes[dim]
            other, known = owners.setdefault(dim, (name, labels))
            if known != labels:
                raise ConfigError(
                    f"measures '{other}' and '{name}' label the dimension '{dim}' differently and do not fit into one "
                    "Timeline: trace them in two calls"
                )


def _timeline(pieces: Mapping[str, list[xr.Dataset]], steps: list[int], keep_examples: bool) -> xr.Dataset:
    index = xr.DataArray(steps, dims="step", coords={"step": steps}, name="step")
    arrays: dict[str, xr.DataArray] = {}
    for name, parts in pieces.items():
        try:
            joined = xr.concat(
                parts, dim=index, join="exact", coords="minimal", compat="override", combine_attrs="override"
            )
        except (ValueError, xr.AlignmentError) as error:
            raise ConfigError(f"measure '{name}' has other labels at different checkpoints: {error}") from error
        arrays[name] = joined["mean"].assign_attrs(joined.attrs)
        arrays[f"{name}_se"], arrays[f"{name}_n"] = joined["se"], joined["n"]
        if keep_examples and "values" in joined:
            arrays[f"{name}_examples"] = joined["values"].transpose("step", ..., "example")
    return xr.Dataset({name: part.transpose("step", ...) for name, part in arrays.items()})
