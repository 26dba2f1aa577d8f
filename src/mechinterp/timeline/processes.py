"""A trace whose checkpoints are shared among processes; each writes its measurements to the Run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mechinterp.core import ConfigError, RunLike, usable_cores, using_threads
from mechinterp.core.memo import remembering
from mechinterp.core.progress import Progress, StepProgress
from mechinterp.core.workers import LocalProcesses, check_portable
from mechinterp.measures import Measure, measure
from mechinterp.measures.registry import function_of
from mechinterp.tasks import Task
from mechinterp.timeline.camera import Camera
from mechinterp.timeline.store import Files
from mechinterp.training import Run


@dataclass(frozen=True)
class Share:
    """What one process measures.

    Args:
        run: Folder of the Run.
        task: Its task: unpacking it imports the module that defines a task of the user's.
        modules: Modules that define the measures.
        measures: Names and parameters, by the caller's names.
        steps: Some steps.
        seed: Of the examples.
        on: As for `trace`.
        keep_examples: As for `trace`.
        interventions: As for `trace`.
    """

    run: Path
    task: Task
    modules: tuple[str, ...]
    measures: Mapping[str, tuple[str, Mapping[str, object]]]
    steps: tuple[int, ...]
    seed: int
    on: Task | str | None
    keep_examples: bool
    interventions: bool


def measure_in_processes(
    run: RunLike,
    measures: Mapping[str, Measure],
    steps: Sequence[int],
    workers: int | None,
    *,
    seed: int,
    on: Task | str | None,
    keep_examples: bool,
    interventions: bool,
    show: Progress,
) -> None:
    """Measure some checkpoints in several processes; what they measured is then read from the Run's folder.

    Raises:
        ConfigError: If the Run is not in a folder, or a measure or task cannot go to another process.
    """
    count = min(workers or usable_cores(), len(steps))
    if count == 1:
        return
    if not isinstance(run, Run) or not (run.path / "run.json").is_file():
        raise ConfigError(f"workers={workers}: checkpoints are shared among processes for a Run in a folder only")
    modules = tuple({function_of(one.name).__module__ for one in measures.values()})
    if "__main__" in modules:
        raise ConfigError(f"workers={workers}: a measure is defined in this program: define it in a module")
    packed = {name: (one.name, dict(one.params)) for name, one in measures.items()}
    # Every count-th one: late checkpoints may take longer than early ones.
    shares = [
        Share(run.path.resolve(), run.task, modules, packed, tuple(some), seed, on, keep_examples, interventions)
        for some in (steps[first::count] for first in range(count))
    ]
    check_portable(shares[0], "the task or a measure's parameter")
    done = [0] * count

    def heard(number: int, finished: int, total: int) -> None:
        done[number] = finished
        show("checkpoints", sum(done), len(steps))

    for outcome in LocalProcesses(count, retries=1).run(trace_share, shares, on_progress=heard):
        _ = outcome.result


def trace_share(share: Share, progress: StepProgress) -> int:
    """Measure a share of the checkpoints; how many."""
    for module in share.modules:
        import_module(module)
    measures = {name: measure(known, **params) for name, (known, params) in share.measures.items()}
    run = Run(share.run, share.task)
    store = Files(run.path / "timeline")
    camera = Camera.of(run, measures, share.seed, share.on, store, share.keep_examples, share.interventions)
    with using_threads(1), remembering("draws"):
        for number, step in enumerate(share.steps, start=1):
            camera.at(step, lambda name: None)
            progress(number, len(share.steps))
    return len(share.steps)
