"""`verify`: check every claim of a circuit, on the shipped weights or on models trained from scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from mechinterp.claims.numbers import numbers_of
from mechinterp.claims.pool import Portion, measure_all
from mechinterp.claims.schema import UNDECIDED, VERDICTS, Claim, Known, Undecided, Verdict
from mechinterp.claims.shipped import LoadedCircuit, as_subject, circuit_names, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import decide
from mechinterp.core import ConfigError, suggest
from mechinterp.core.progress import Bars, Progress
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
        verdict: `reproduced`, `weaker`, `not reproduced`, `not testable at this scale`; `not decided` where the process
            that measured it died.
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
    verdict: Verdict | Undecided
    sentence: str = field(default="", repr=False)
    known: Known | None = field(default=None, repr=False)
    reason: str = field(default="", repr=False)

    @property
    def failed(self) -> bool:
        """Whether the verdict is worse than expected: `reproduced`, unless another one is documented."""
        if self.verdict == VERDICTS[-1] or self.verdict == UNDECIDED:
            return False
        return VERDICTS.index(self.verdict) > (VERDICTS.index(self.known.verdict) if self.known else 0)

    @property
    def undecided(self) -> bool:
        """Whether it was not measured, through no fault of the claim."""
        return self.verdict == UNDECIDED

    def to_dict(self) -> dict[str, object]:
        """The fields that `mechinterp verify --json` prints."""
        return {name: value for name, value in asdict(self).items() if name not in ("sentence", "known", "reason")}


def verify(
    name: str | Path | None = None,
    retrain: bool = False,
    seeds: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    models: Mapping[str, object] | None = None,
    only: Sequence[str] | None = None,
    progress: bool | Progress = False,
) -> list[ClaimResult]:
    """Check the claims of one circuit, or of all that ship.

    Args:
        name: A circuit's name or folder; None for all.
        retrain: Train the models from scratch instead of taking the shipped weights.
        seeds: With `retrain`: how many models of each kind (seeds 1000, 1001, ... which nothing was tuned on), or their
            seeds; None for as many as the circuit's `claims.toml` asks.
        out: With `retrain`: where their Runs are kept, and taken up again; by default nowhere.
        workers: Processes; None for one per core. Models that are passed are measured in this one.
        models: Put another model in the place of a shipped one, by its name: a Transformer, a Run or a Subject.
        only: Ids of the claims to check; None for all.
        progress: True for bars, or a function that is called with (what, done, total).

    Returns:
        One result per claim, in the order of the files.

    Raises:
        ConfigError: If there is no such circuit, or arguments exclude each other.
        RunError: If weights are damaged, or a training failed.

    A claim whose process died twice is `not decided`; the others keep their verdicts.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least one process is needed")
    if not retrain and (seeds is not None or out is not None):
        raise ConfigError("seeds and out are about models trained from scratch: they go with retrain=True")
    if retrain and models:
        raise ConfigError("retrain=True trains its own models: give models, or retrain")
    circuits = [load_circuit(one) for one in ([name] if name is not None else circuit_names())]
    _check_ids(circuits, only or ())
    checked = [_checked(one, "retrained" if retrain else "shipped", only) for one in circuits]
    with Bars(progress) as show, ExitStack() as stack:
        if retrain:
            folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trained = _retrained(circuits, {one.name: _seeds(one, seeds) for one in circuits}, folder, workers, show)
            groups = [trained[one.name] for one in circuits]
        else:
            groups = [[_shipped(one, models or {})] for one in circuits]
        portions = []
        for circuit, claims, of_circuit in zip(circuits, checked, groups, strict=True):
            testable = [claim for claim in claims if not claim.not_testable]
            alone = len(of_circuit) == 1
            portions += [Portion(circuit, testable, group, not retrain, alone) for group in of_circuit]
        outcomes = iter(measure_all(portions, 1 if models else workers, show))
    results = []
    for circuit, claims, of_circuit in zip(circuits, checked, groups, strict=True):
        own = list(islice(outcomes, len(of_circuit)))
        failure = next((one.failure for one in own if one.died), "")
        measured = [one.result for one in own if not one.died]
        for claim in claims:
            numbers = [number for by_claim in measured for number in by_claim.get(claim.id, [])]
            results.append(judge(claim, numbers, circuit.name, failure))
    return results


def _seeds(circuit: LoadedCircuit, wanted: int | Sequence[int] | None) -> list[int]:
    """Seeds of the confirming models."""
    count = circuit.seeds if wanted is None else wanted
    seeds = list(range(FRESH, FRESH + count)) if isinstance(count, int) else list(count)
    if not seeds:
        raise ConfigError("seeds: at least one is needed")
    return seeds


def _check_ids(circuits: Sequence[LoadedCircuit], only: Sequence[str]) -> None:
    known = [claim.id for circuit in circuits for claim in circuit.claims]
    whose = f"circuit '{circuits[0].name}' claims" if len(circuits) == 1 else "the circuits claim"
    for name in only:
        if name not in known:
            raise ConfigError(f"{whose} no '{name}'.{suggest(name, known)}")


def _checked(circuit: LoadedCircuit, mode: str, only: Sequence[str] | None) -> list[Claim]:
    """The claims that are to be checked."""
    claims = [claim for claim in circuit.claims if mode in claim.on or claim.not_testable]
    return [claim for claim in claims if only is None or claim.id in only]


def check_claim(claim: Claim, groups: Sequence[Mapping[str, Subject]], circuit: str = "") -> ClaimResult:
    """Check one claim.

    Args:
        claim: The claim.
        groups: Per seed, name of a model -> the model.
        circuit: The name of the circuit that claims it.
    """
    alone = len(groups) == 1
    numbers = [] if claim.not_testable else [one for group in groups for one in numbers_of(claim, group, alone)]
    return judge(claim, numbers, circuit)


def judge(claim: Claim, numbers: Sequence[tuple[int, Interval]], circuit: str = "", failure: str = "") -> ClaimResult:
    """The result of a claim whose numbers, with their seeds, are known.

    Args:
        claim: The claim.
        numbers: Seed and number of every model.
        circuit: The name of the circuit that claims it.
        failure: Why some models have no number; then nothing is decided.
    """
    ends: tuple[float | None, float | None, float | None] = (None, None, None)
    seeds: tuple[int, ...] = ()
    verdict, reason = "not testable at this scale", ""
    if not claim.not_testable and failure:
        verdict, reason = UNDECIDED, f"some models were not measured: {failure}"
    elif not claim.not_testable:
        verdict, mean = decide(claim, [value for _, value in numbers])
        ends, seeds = (mean.value, mean.low, mean.high), tuple(seed for seed, _ in numbers)
        reason = next((value.reason for _, value in numbers if value.reason), "")
    about = (circuit, claim.id, claim.source, claim.published)
    return ClaimResult(*about, *ends, claim.tolerance, seeds, verdict, claim.sentence, claim.known, reason)


def _shipped(circuit: LoadedCircuit, models: Mapping[str, object]) -> dict[str, Subject]:
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
