"""`verify`: check every claim of a circuit, on the shipped weights or on models trained anew."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mechinterp.claims import pool
from mechinterp.claims.numbers import numbers_of
from mechinterp.claims.schema import VERDICTS, Claim, Known, Verdict
from mechinterp.claims.shipped import LoadedCircuit, as_subject, circuit_names, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import decide
from mechinterp.core import ConfigError, suggest
from mechinterp.core.progress import Progress
from mechinterp.core.statistics import Interval
from mechinterp.models import ModelConfig
from mechinterp.tasks import from_dict
from mechinterp.training import Job, TrainConfig, train_jobs

FRESH = 1000
"""First seed of models that are trained to confirm: none of those on which settings and tolerances were chosen."""


@dataclass(frozen=True)
class ClaimResult:
    """What came of one claim.

    Args:
        circuit: The circuit's name.
        claim: The claim's id.
        source: Paper and place.
        published: Its value there; None where the source gives none.
        measured: The mean over seeds; None if it was not measured, NaN if a model has no such number.
        low: Lower end of the 95% interval: over seeds, or over examples where there is one model.
        high: Upper end.
        tolerance: What counts as reproduced.
        seeds: Of the models that were measured.
        verdict: `reproduced`, `weaker`, `not reproduced`, `not testable at this scale`.
        sentence: The claim in words.
        known: A documented verdict that falls short.
        reason: Why there is no number, if some model cannot have it (or the claim asks for what does not exist).
    """

    circuit: str
    claim: str
    source: str
    published: float | None
    measured: float | None
    low: float | None
    high: float | None
    tolerance: str
    seeds: tuple[int, ...]
    verdict: Verdict
    sentence: str = field(default="", repr=False)
    known: Known | None = field(default=None, repr=False)
    reason: str = field(default="", repr=False)

    @property
    def failed(self) -> bool:
        """Whether the verdict is worse than expected: `reproduced`, unless another one is documented."""
        allowed = VERDICTS.index(self.known.verdict) if self.known else 0
        return self.verdict != VERDICTS[-1] and VERDICTS.index(self.verdict) > allowed

    def to_dict(self) -> dict[str, Any]:
        """The fields that `mechinterp verify --json` prints."""
        return {name: value for name, value in asdict(self).items() if name not in ("sentence", "known", "reason")}


def verify(
    name: str | Path | None = None,
    retrain: bool = False,
    seeds: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    models: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[ClaimResult]:
    """Check the claims of one circuit, or of all that ship.

    Args:
        name: A circuit's name or folder; None for all.
        retrain: Train the models from scratch instead of taking the shipped weights.
        seeds: With `retrain`: how many models of each kind (seeds 1000, 1001, ... which nothing was tuned on), or their
            seeds; None for as many as the circuit's `claims.toml` asks.
        out: With `retrain`: where their Runs are kept, and taken up again; by default nowhere.
        workers: Processes; None for one per core. Models of yours are measured in this one.
        models: Put another model in the place of a shipped one, by its name: a Transformer, a Run or a Subject.
        only: Ids of the claims to check; None for all.
        progress: Called with (what, done, of how many).

    Returns:
        One result per claim, in the order of the files.

    Raises:
        ConfigError: If there is no such circuit, or arguments exclude each other.
        RunError: If weights are damaged, or a training failed.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least one process is needed")
    if not retrain and (seeds is not None or out is not None):
        raise ConfigError("seeds and out are about models trained anew: they go with retrain=True")
    if retrain and models:
        raise ConfigError("retrain=True trains its own models: give models, or retrain")
    show = progress or (lambda *_: None)
    circuits = [load_circuit(one) for one in ([name] if name is not None else circuit_names())]
    _check_ids(circuits, only or ())
    asked = [_asked(one, "retrained" if retrain else "shipped", only) for one in circuits]
    with ExitStack() as stack:
        trained: dict[str, list[dict[str, Subject]]] = {}
        if retrain:
            folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            wanted = {one.name: _seeds(one, seeds) for one in circuits}
            trained = _retrained(circuits, wanted, folder, workers, show)
        groups = [trained[one.name] if retrain else [_shipped(one, models or {})] for one in circuits]
        found = _measured(circuits, asked, groups, not retrain, 1 if models else workers, show)
    return [
        judge(claim, numbers.get(claim.id, []), circuit.name)
        for circuit, claims, numbers in zip(circuits, asked, found, strict=True)
        for claim in claims
    ]


def _seeds(circuit: LoadedCircuit, asked: int | Sequence[int] | None) -> list[int]:
    """Seeds of the confirming models."""
    count = circuit.seeds if asked is None else asked
    found = list(range(FRESH, FRESH + count)) if isinstance(count, int) else list(count)
    if not found:
        raise ConfigError("seeds: at least one is needed")
    return found


def _check_ids(circuits: Sequence[LoadedCircuit], only: Sequence[str]) -> None:
    known = [claim.id for circuit in circuits for claim in circuit.claims]
    whose = f"circuit '{circuits[0].name}' claims" if len(circuits) == 1 else "the circuits claim"
    for name in only:
        if name not in known:
            raise ConfigError(f"{whose} no '{name}'.{suggest(name, known)}")


def _asked(circuit: LoadedCircuit, mode: str, only: Sequence[str] | None) -> list[Claim]:
    """The claims that are to be checked."""
    claims = [claim for claim in circuit.claims if mode in claim.on or claim.not_testable]
    return [claim for claim in claims if only is None or claim.id in only]


def _measured(
    circuits: Sequence[LoadedCircuit],
    asked: Sequence[Sequence[Claim]],
    groups: Sequence[Sequence[Mapping[str, Subject]]],
    shipped: bool,
    workers: int | None,
    show: Progress,
) -> list[pool.Found]:
    """Claim -> numbers, for each circuit: in several processes where there is enough to share out."""
    claims = [[claim for claim in some if not claim.not_testable] for some in asked]
    every = [(index, group) for index, some in enumerate(groups) for group in some]
    if workers != 1 and len(every) > 1 and all(pool.can_go_elsewhere(some) for some in claims):
        portions = [pool.portion(circuits[index], claims[index], group, shipped) for index, group in every]
        parts = pool.measure_portions(portions, workers, show)
        found: list[pool.Found] = [{claim.id: [] for claim in some} for some in claims]
        for (index, _), part in zip(every, parts, strict=True):
            for name, numbers in part.items():
                found[index][name] += numbers
        return found
    return [_here(*part, show) for part in zip(circuits, claims, groups, strict=True)]


def _here(
    circuit: LoadedCircuit, claims: Sequence[Claim], groups: Sequence[Mapping[str, Subject]], show: Progress
) -> pool.Found:
    found: pool.Found = {}
    for done, claim in enumerate(claims, start=1):
        found[claim.id] = numbers_of(claim, groups, many_untrained=len(groups) == 1)
        show(f"claims of {circuit.name}", done, len(claims))
    return found


def check_claim(claim: Claim, groups: Sequence[Mapping[str, Subject]], circuit: str = "") -> ClaimResult:
    """Check one claim.

    Args:
        claim: The claim.
        groups: Per seed, name of a model -> the model.
        circuit: The name of the circuit that claims it.
    """
    return judge(
        claim, [] if claim.not_testable else numbers_of(claim, groups, many_untrained=len(groups) == 1), circuit
    )


def judge(claim: Claim, numbers: Sequence[tuple[int, Interval]], circuit: str = "") -> ClaimResult:
    """The result of a claim whose numbers, with their seeds, are known."""
    about: dict[str, Any] = {
        name: getattr(claim, name) for name in ("source", "published", "tolerance", "sentence", "known")
    }
    about |= {"circuit": circuit, "claim": claim.id}
    if claim.not_testable:
        return ClaimResult(**about, measured=None, low=None, high=None, seeds=(), verdict="not testable at this scale")
    verdict, found = decide(claim, [number for _, number in numbers])
    seeds = tuple(seed for seed, _ in numbers)
    about["reason"] = next((number.reason for _, number in numbers if number.reason), "")
    return ClaimResult(**about, measured=found.value, low=found.low, high=found.high, seeds=seeds, verdict=verdict)


def _shipped(circuit: LoadedCircuit, models: Mapping[str, Any]) -> dict[str, Subject]:
    unknown = sorted(set(models) - set(circuit.models))
    if unknown:
        raise ConfigError(f"circuit '{circuit.name}' has no model '{unknown[0]}'; it has {sorted(circuit.models)}")
    return {name: as_subject(models.get(name, one), one) for name, one in circuit.models.items()}


def _retrained(
    circuits: Sequence[LoadedCircuit], seeds: Mapping[str, list[int]], folder: Path, workers: int | None, show: Progress
) -> dict[str, list[dict[str, Subject]]]:
    """Train each circuit's models once per seed, all in one pool, with the settings they were shipped with."""
    jobs = [
        _job(circuit, name, seed, folder / circuit.name / f"{name}-{seed}")
        for circuit in circuits
        for seed in seeds[circuit.name]
        for name in circuit.models
    ]
    runs = iter(train_jobs(jobs, workers, resume=True, progress=show))
    return {
        circuit.name: [{name: Subject.of(next(runs)) for name in circuit.models} for _ in seeds[circuit.name]]
        for circuit in circuits
    }


def _job(circuit: LoadedCircuit, name: str, seed: int, folder: Path) -> Job:
    record = circuit.records[name]
    if record.task is None or not isinstance(record.model, ModelConfig) or not isinstance(record.training, TrainConfig):
        raise ConfigError(f"{circuit.path}/weights/{name}.json lacks task, model or training: it cannot be retrained")
    return Job(from_dict(record.task), record.model, record.training, seed, folder)
