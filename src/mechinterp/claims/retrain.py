"""A circuit's models, trained again from other seeds with the settings they were shipped with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mechinterp.claims.shipped import LoadedCircuit
from mechinterp.claims.subjects import Subject
from mechinterp.core import ConfigError
from mechinterp.core.progress import Progress
from mechinterp.models import ModelConfig
from mechinterp.tasks import from_dict
from mechinterp.training import Job, TrainConfig, train_jobs

FRESH = 1000
"""First seed of models that are trained to confirm: none of those on which settings and tolerances were chosen."""


def fresh_seeds(circuit: LoadedCircuit, wanted: int | Sequence[int] | None) -> list[int]:
    """Seeds of a circuit's models: as many as it asks, or as many as are wanted, or these.

    Raises:
        ConfigError: If there are none.
    """
    count = circuit.seeds if wanted is None else wanted
    seeds = list(range(FRESH, FRESH + count)) if isinstance(count, int) else list(count)
    if not seeds:
        raise ConfigError("seeds: at least one is needed")
    return seeds


def trained_groups(
    circuits: Sequence[LoadedCircuit],
    models: Mapping[str, Sequence[str]],
    seeds: Mapping[str, Sequence[int]],
    folder: Path,
    workers: int | None,
    show: Progress,
    null: str = "none",
) -> dict[str, list[dict[str, Subject]]]:
    """Train each circuit's models once per seed, all in one pool.

    Args:
        circuits: The circuits.
        models: Circuit -> which of its models.
        seeds: Circuit -> seeds.
        folder: Of the Runs; those that are there are continued.
        workers: Processes.
        show: Hears how far training is.
        null: As in `TrainConfig`: what nothing can be learnt from.

    Returns:
        Circuit -> for each seed, name of a model -> the model.
    """
    kind = "" if null == "none" else f"{null}-"
    jobs = [
        _job(circuit, name, seed, folder / circuit.name / f"{name}-{kind}{seed}", null)
        for circuit in circuits
        for seed in seeds[circuit.name]
        for name in models[circuit.name]
    ]
    runs = iter(train_jobs(jobs, workers, resume=True, progress=show))
    return {
        circuit.name: [{name: Subject.of(next(runs)) for name in models[circuit.name]} for _ in seeds[circuit.name]]
        for circuit in circuits
    }


def _job(circuit: LoadedCircuit, name: str, seed: int, folder: Path, null: str) -> Job:
    record = circuit.records[name]
    if record.task is None or not isinstance(record.model, ModelConfig) or not isinstance(record.training, TrainConfig):
        raise ConfigError(f"{circuit.path}/weights/{name}.json lacks task, model or training: it cannot be retrained")
    training = TrainConfig.of({**record.training.model_dump(), "null": null})
    return Job(from_dict(record.task), record.model, training, seed, folder)
