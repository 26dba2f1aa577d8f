"""Claims measured in parallel: each process opens one circuit, or one seed of its models trained anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mechinterp.claims.numbers import numbers_of
from mechinterp.claims.schema import Claim
from mechinterp.claims.shipped import LoadedCircuit, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.core import RunError, usable_cores, using_threads
from mechinterp.core.progress import Progress, StepProgress
from mechinterp.core.statistics import Interval
from mechinterp.core.workers import LocalProcesses
from mechinterp.measures.registry import function_of
from mechinterp.tasks import Task
from mechinterp.training import Run

Found = dict[str, list[tuple[int, Interval]]]
"""Claim -> seed and number of every model that was measured."""


@dataclass(frozen=True)
class Portion:
    """What one process measures.

    Args:
        circuit: Its folder.
        claims: Ids of the claims.
        runs: Name of a model -> folder of its Run; None for the shipped models.
        tasks: The models' tasks: to unpack them, a process imports the module that a task of one's own lies in.
    """

    circuit: Path
    claims: tuple[str, ...]
    runs: Mapping[str, Path] | None
    tasks: tuple[Task, ...]


def portion(circuit: LoadedCircuit, claims: Sequence[Claim], group: Mapping[str, Subject], shipped: bool) -> Portion:
    """The portion of one circuit's claims and one group of its models."""
    runs = None if shipped else {name: Path(one.run.path) for name, one in group.items() if one.run is not None}
    tasks = tuple(one.task for one in group.values())
    return Portion(circuit.path.resolve(), tuple(claim.id for claim in claims), runs, tasks)


def can_go_elsewhere(claims: Sequence[Claim]) -> bool:
    """Whether another process knows all measures: those of one's own may live in a notebook."""
    return all(function_of(claim.measure).__module__.startswith("mechinterp.") for claim in claims)


def measure_portions(portions: Sequence[Portion], workers: int | None, show: Progress) -> list[Found]:
    """Measure all portions, in as many processes as there are cores, and return them in their order.

    Raises:
        RunError: If the process of a portion died twice.
    """
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done += 1
        show("claims, by circuit and seed", done, len(portions))

    engine = LocalProcesses(min(len(portions), workers or usable_cores()), retries=1)
    outcomes = engine.run(measure_portion, portions, on_end=count)
    for portion, outcome in zip(portions, outcomes, strict=True):
        if outcome.error is not None:
            raise outcome.error
        if outcome.failure:
            raise RunError(f"the claims of {portion.circuit.name} are not decided: {outcome.failure}")
    return [outcome.result for outcome in outcomes]


def measure_portion(given: Portion, progress: StepProgress) -> Found:
    """Measure one portion, here."""
    with using_threads(1):
        circuit = load_circuit(given.circuit)
        group = circuit.models if given.runs is None else {n: Subject.of(Run(path)) for n, path in given.runs.items()}
        claims = [claim for claim in circuit.claims if claim.id in given.claims]
        # One group of several comes with its own untrained models; examples need not travel.
        shipped = given.runs is None
        found = {claim.id: numbers_of(claim, [group], many_untrained=shipped) for claim in claims}
        return {name: [(seed, number.without_rows) for seed, number in numbers] for name, numbers in found.items()}
