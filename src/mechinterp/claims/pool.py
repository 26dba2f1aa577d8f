"""Measure claims on groups of models: here, or with one process for each circuit and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mechinterp.claims.numbers import numbers_of
from mechinterp.claims.schema import Claim
from mechinterp.claims.shipped import LoadedCircuit, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.core import usable_cores, using_threads
from mechinterp.core.progress import Progress, StepProgress
from mechinterp.core.statistics import Interval
from mechinterp.core.workers import LocalProcesses
from mechinterp.measures.registry import function_of
from mechinterp.tasks import Task
from mechinterp.training import Run

Numbers = dict[str, list[tuple[int, Interval]]]
"""Claim -> seed and number of every group of models that was measured."""
Group = Mapping[str, Subject]
"""Name of a model -> the model; all of one seed."""


@dataclass(frozen=True, eq=False)
class ToMeasure:
    """The claims of one circuit, and the models that they are checked on.

    Args:
        circuit: The circuit.
        claims: Some of its claims.
        groups: One for each seed.
        shipped: Whether the group is the models that ship with the circuit.
    """

    circuit: LoadedCircuit
    claims: Sequence[Claim]
    groups: Sequence[Group]
    shipped: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """What came of one circuit.

    Args:
        numbers: Of every claim.
        failure: Why some group has no numbers; empty where all have.
    """

    numbers: Numbers
    failure: str = ""


def measure_all(circuits: Sequence[ToMeasure], workers: int | None, show: Progress) -> list[Measured]:
    """Measure all claims of all circuits.

    A process that dies is tried again once; then its circuit says so, and all others keep their numbers.

    Args:
        circuits: What to measure.
        workers: Processes; None for one per core, 1 for none.
        show: Hears how far it is.
    """
    portions = [_portion(one, group) for one in circuits for group in one.groups]
    measures = [claim.measure for one in circuits for claim in one.claims]
    # Another process does not know measures that live in a notebook.
    known = all(function_of(name).__module__.startswith("mechinterp.") for name in measures)
    if workers == 1 or len(portions) == 1 or not known:
        return [_here(one, show) for one in circuits]
    ended = 0

    def on_end(_: int) -> None:
        nonlocal ended
        ended += 1
        show("claims, by circuit and seed", ended, len(portions))

    engine = LocalProcesses(min(len(portions), workers or usable_cores()), retries=1)
    outcomes = iter(engine.run(measure_portion, portions, on_end=on_end))
    results = []
    for one in circuits:
        numbers: Numbers = {claim.id: [] for claim in one.claims}
        failure = ""
        for _ in one.groups:
            outcome = next(outcomes)
            if outcome.died:
                failure = outcome.failure
                continue
            for claim, values in outcome.result.items():
                numbers[claim] += values
        results.append(Measured(numbers, failure))
    return results


@dataclass(frozen=True)
class Portion:
    """What one process measures.

    Args:
        circuit: Folder of the circuit.
        claims: Ids of the claims.
        runs: Name of a model -> folder of its Run; None for the shipped models.
        tasks: Of the models: unpacking them imports the module that defines a task of the user's.
        alone: Whether this is the circuit's only group: see `numbers_of`.
    """

    circuit: Path
    claims: tuple[str, ...]
    runs: Mapping[str, Path] | None
    tasks: tuple[Task, ...]
    alone: bool


def measure_portion(portion: Portion, progress: StepProgress) -> Numbers:
    """Measure one portion; values of single examples stay behind."""
    with using_threads(1):
        circuit = load_circuit(portion.circuit)
        runs = portion.runs
        group = circuit.models if runs is None else {name: Subject.of(Run(path)) for name, path in runs.items()}
        claims = [claim for claim in circuit.claims if claim.id in portion.claims]
        numbers = {claim.id: numbers_of(claim, [group], many_untrained=portion.alone) for claim in claims}
    return {claim: [(seed, value.without_rows) for seed, value in values] for claim, values in numbers.items()}


def _portion(one: ToMeasure, group: Group) -> Portion:
    runs = {name: Path(subject.run.path) for name, subject in group.items() if subject.run is not None}
    return Portion(
        one.circuit.path.resolve(),
        tuple(claim.id for claim in one.claims),
        None if one.shipped else runs,
        tuple(subject.task for subject in group.values()),
        alone=len(one.groups) == 1,
    )


def _here(one: ToMeasure, show: Progress) -> Measured:
    numbers: Numbers = {}
    for done, claim in enumerate(one.claims, start=1):
        numbers[claim.id] = numbers_of(claim, one.groups, many_untrained=len(one.groups) == 1)
        show(f"claims of {one.circuit.name}", done, len(one.claims))
    return Measured(numbers)
