"""Measure claims on groups of models, one portion after the other here, or in processes."""

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
from mechinterp.core.workers import LocalProcesses, Outcome
from mechinterp.measures.registry import function_of
from mechinterp.tasks import Task
from mechinterp.training import Run

Numbers = dict[str, list[tuple[int, Interval]]]
"""Claim -> seed and number of the models that were measured."""


@dataclass(frozen=True, eq=False)
class Portion:
    """What is measured at a time: claims of one circuit on one group of models.

    Args:
        circuit: The circuit.
        claims: Some of its claims.
        group: Name of a model -> the model; all of one seed.
        shipped: Whether these are the models that ship with the circuit.
        alone: Whether this is the circuit's only group: see `numbers_of`.
        untrained: Seed of untrained models in the place of the shipped ones; None for others.
    """

    circuit: LoadedCircuit
    claims: Sequence[Claim]
    group: Mapping[str, Subject]
    shipped: bool
    alone: bool
    untrained: int | None = None

    @property
    def name(self) -> str:
        """What a progress bar calls it."""
        seed = "" if self.alone else f", seed {next(iter(self.group.values())).seed}"
        return f"claims of {self.circuit.name}{seed}"

    def measure(self, progress: StepProgress) -> Numbers:
        """The numbers of every claim."""
        numbers: Numbers = {}
        for done, claim in enumerate(self.claims, start=1):
            numbers[claim.id] = numbers_of(claim, self.group, self.alone)
            progress(done, len(self.claims))
        return numbers


def measure_all(portions: Sequence[Portion], workers: int | None, show: Progress) -> list[Outcome[Numbers]]:
    """Measure all portions; the outcomes in their order.

    Args:
        portions: What to measure.
        workers: Processes; None for one per core, 1 for none. One that dies is tried again once.
        show: Hears how far each portion is.
    """

    def heard(number: int, done: int, total: int) -> None:
        show(portions[number].name, done, total)

    measures = {claim.measure for portion in portions for claim in portion.claims}
    # Another process does not know measures that live in a notebook.
    known = all(function_of(name).__module__.startswith("mechinterp.") for name in measures)
    if workers == 1 or len(portions) == 1 or not known:
        return [Outcome(one.measure(lambda *how, at=at: heard(at, *how))) for at, one in enumerate(portions)]
    engine = LocalProcesses(min(len(portions), workers or usable_cores()), retries=1)
    return engine.run(measure_elsewhere, [_packed(portion) for portion in portions], on_progress=heard)


@dataclass(frozen=True)
class Packed:
    """A portion on its way to another process.

    Args:
        circuit: Folder of the circuit.
        claims: Ids of the claims.
        runs: Name of a model -> folder of its Run; None for the shipped models.
        tasks: Of the models: unpacking them imports the module that defines a task of the user's.
        alone: As in `Portion`.
        untrained: As in `Portion`.
    """

    circuit: Path
    claims: tuple[str, ...]
    runs: Mapping[str, Path] | None
    tasks: tuple[Task, ...]
    alone: bool
    untrained: int | None


def measure_elsewhere(packed: Packed, progress: StepProgress) -> Numbers:
    """Open a portion and measure it; values of single examples stay behind."""
    with using_threads(1):
        circuit, runs = load_circuit(packed.circuit), packed.runs
        group = circuit.models if runs is None else {name: Subject.of(Run(path)) for name, path in runs.items()}
        if packed.untrained is not None:
            group = untrained_group(circuit, packed.untrained)
        claims = [claim for claim in circuit.claims if claim.id in packed.claims]
        numbers = Portion(circuit, claims, group, runs is None, packed.alone).measure(progress)
    return {claim: [(seed, value.without_rows) for seed, value in values] for claim, values in numbers.items()}


def _packed(portion: Portion) -> Packed:
    runs = {name: Path(subject.run.path) for name, subject in portion.group.items() if subject.run is not None}
    claims = tuple(claim.id for claim in portion.claims)
    tasks = tuple(subject.task for subject in portion.group.values())
    folders = None if portion.shipped else runs
    return Packed(portion.circuit.path.resolve(), claims, folders, tasks, portion.alone, portion.untrained)


def untrained_group(circuit: LoadedCircuit, seed: int) -> dict[str, Subject]:
    """An untrained model, without history, in the place of each shipped one."""
    return {name: one.before_training(seed) for name, one in circuit.models.items()}
