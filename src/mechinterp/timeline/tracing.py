"""`trace`: measures at every checkpoint of a Run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import ConfigError, RunError, RunLike, suggest
from mechinterp.core.memo import remembering
from mechinterp.core.progress import Bars, Progress
from mechinterp.measures import Measure, as_measure
from mechinterp.tasks import Task
from mechinterp.timeline.adaptive import Curves, adaptive_steps
from mechinterp.timeline.camera import Camera, Traceable
from mechinterp.timeline.processes import measure_in_processes
from mechinterp.timeline.store import Files, Store
from mechinterp.training import Run

What = str | Measure


def trace(
    run: Traceable,
    measures: What | Sequence[What] | Mapping[str, What],
    seed: int = 0,
    steps: Sequence[int] | str | None = None,
    keep_examples: bool = False,
    progress: bool | Progress = False,
    on: Task | str | None = None,
    store: Store | None = None,
    workers: int | None = 1,
    interventions: bool = False,
) -> xr.Dataset:
    """Measure every checkpoint of a Run, one model at a time; a stored measurement is read, not taken again.

    Each measure of each checkpoint is one file `<run>/timeline/<measure key>-seed<seed>/<step>.nc`, written whole or
    not at all, so an interrupted trace continues where it stopped. Its key is the weights' hash, the task, the
    measure's parameters and own code, the seed and the version: if any of them changes, the measurement is repeated.
    So is one whose file is damaged; these are derived data and nothing is lost. Examples are drawn once for the whole
    trace, and a model is run once on examples that several measures share.

    Args:
        run: A `Run`, or anything with `path`, `steps`, `task`, `model(step)` and `weights_hash(step)`.
        measures: Names, `mi.measure(...)` objects, or a mapping from your own names to them (needed to trace one
            measure with two sets of parameters).
        seed: The examples; the same ones at all checkpoints.
        steps: Some of the Run's steps; default all. `"adaptive"` measures few, and then more where a value moves, until
            no move lies between two checkpoints of which one in the middle was left out (`adaptive_steps`).
        keep_examples: Keep single examples too.
        progress: True for bars, or a function called with (measure, checkpoints done, checkpoints).
        on: Measure on another task than the Run's own, or on one of its `variants()`, by name: conditions that are
            absent from training.
        store: Where measurements are kept; default is the Run's folder. A `Memory()` writes none of them to disk.
        workers: Processes that share the checkpoints; None for one per core. They need a `Run` in a folder, measures
            that a module defines, and are not used for adaptive steps.
        interventions: For a Run that was trained under interventions. False measures the plain model, weights alone;
            True measures it as training ran it, under the interventions that acted on its forward pass at each step.
            Both are kept, side by side; measures that cannot run such a model say so.

    Returns:
        A Timeline. For every measure `<name>`, `<name>_se` and `<name>_n`: mean, standard error and count over
        examples, with `step` as first dimension and then the measure's own; with `keep_examples` also
        `<name>_examples`, last of all by `example`. A measure that has no examples (weights alone) has NaN standard
        errors and counts of 1. Its attributes (metric, direction, seed, ...) stand on `<name>`. Attribute `left_out`
        counts the checkpoints that were not measured; of a Run that was trained under interventions, attribute
        `interventions` says whether it was measured `with` or `without` them.

    Raises:
        ConfigError: If a measure is unknown or named twice, two of them label one dimension differently, the task
            has no such variant, or interventions are asked for and the Run was trained without.
        RunError: If a step has no checkpoint.
        UnsupportedError: If model or task lack what a measure needs; says which measure.
    """
    chosen = named_measures(measures)
    adaptive = steps == "adaptive"
    wanted = _steps(run, None if isinstance(steps, str) else steps)
    if isinstance(steps, str) and not adaptive:
        raise ConfigError(f"steps='{steps}': give a list of steps, 'adaptive', or None for all")
    store = Files(Path(run.path) / "timeline") if store is None else store
    parts: dict[int, dict[str, xr.Dataset]] = {}
    with store.alone() as alone, Bars(progress) as show, remembering("draws"):
        if workers != 1 and not adaptive and isinstance(store, Files):
            alone()
            how = {"seed": seed, "on": on, "keep_examples": keep_examples, "interventions": interventions}
            measure_in_processes(run, chosen, wanted, workers, show=show, **how)
        camera = Camera.of(run, chosen, seed, on, store, keep_examples, interventions)
        camera = replace(camera, before_writing=alone)

        def measured(some: Sequence[int], most: int) -> list[dict[str, xr.Dataset]]:
            for step in some:
                if step in parts:
                    continue
                parts[step] = camera.at(step, lambda name: show(name, len(parts) + 1, most))
                if len(parts) == 1:
                    _check_labels(parts[step])
            return [parts[step] for step in some]

        if adaptive:
            wanted = adaptive_steps(wanted, lambda some: _curves(measured(some, len(wanted))))
        pieces = measured(wanted, len(wanted))
    timeline = _timeline({name: [piece[name] for piece in pieces] for name in chosen}, wanted, keep_examples)
    left_out = len(_steps(run, None)) - len(wanted)
    timeline = timeline.assign_attrs(run=str(run.path), seed=seed, version=__version__, left_out=left_out)
    if camera.interventions is not None:
        timeline.attrs["interventions"] = "with" if camera.interventions else "without"
    return timeline


def _curves(pieces: Sequence[Mapping[str, xr.Dataset]]) -> list[Curves]:
    """Means and standard errors of each measure, `[step, entry]`."""
    names = list(pieces[0])
    return [
        Curves(*(np.stack([piece[name][what].values.ravel() for piece in pieces]) for what in ("mean", "se")))
        for name in names
    ]


def named_measures(measures: What | Sequence[What] | Mapping[str, What]) -> dict[str, Measure]:
    """Measures by the names that a timeline has them under.

    Raises:
        ConfigError: If there is none, one is unknown, or one is named twice.
    """
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
    # Where only some weights were kept, the other checkpoints may have been measured in training.
    known = sorted({*run.steps, *(run.passed if isinstance(run, Run) else ())})
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
