"""What Runs are, as plain data that a result keeps: task, model, training, seeds, checkpoints, versions."""

from __future__ import annotations

from collections.abc import Sequence

from mechinterp.timeline import Traceable
from mechinterp.training import Job, Run
from mechinterp.training.record import current_versions


def record_of(run: Traceable) -> dict[str, object]:
    """What a Run is."""
    config = run.config if isinstance(run, Run) else None
    data = {} if config is None else config.model_dump(mode="json")
    record = {name: data[name] for name in ("model", "training", "versions") if data.get(name)}
    steps = [int(step) for step in run.steps]
    record |= {"task": run.task.to_dict(), "checkpoints": [len(steps), steps[0], steps[-1]] if steps else []}
    if config is not None and config.seed is not None:
        record["seeds"] = [config.seed]
    if config is not None and config.interventions:
        record["interventions"] = [one.model_dump(mode="json") for one in config.interventions]
    return record


def record_of_jobs(jobs: Sequence[Job]) -> dict[str, object]:
    """What Runs are that differ by their seeds alone."""
    first = jobs[0]
    steps = first.training.checkpoint_steps
    data = {one.training.data_seed for one in jobs} - {None}
    return {
        "task": first.task.to_dict(),
        "model": first.model.model_dump(mode="json"),
        "training": first.training.model_copy(update={"data_seed": None}).model_dump(mode="json"),
        "seeds": sorted({one.seed for one in jobs}),
        "data_seeds": sorted(seed for seed in data if seed is not None),
        "checkpoints": [len(steps), steps[0], steps[-1]],
        "versions": current_versions(),
    }
