"""`verify`: check every claim of a circuit, on the shipped weights or on models trained from scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from mechinterp.claims.nulls import NULL_MODELS, mechanism_claims, null_portions
from mechinterp.claims.numbers import numbers_of
from mechinterp.claims.pool import Numbers, Portion, measure_all
from mechinterp.claims.retrain import fresh_seeds, trained_groups
from mechinterp.claims.schema import UNDECIDED, VERDICTS, Claim, Known, Purpose, Undecided, Verdict
from mechinterp.claims.shipped import LoadedCircuit, as_subject, circuit_names, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import decide
from mechinterp.core import ConfigError, check_word, suggest
from mechinterp.core.progress import Bars, Progress
from mechinterp.core.statistics import Interval
from mechinterp.core.workers import Outcome


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
        purpose: What the claim is for: `mechanism`, `contrast` or `control`.
        null: What was measured in the place of a trained model; empty for trained models.
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
    purpose: Purpose = "mechanism"
    null: str | None = field(default=None, repr=False)

    @property
    def holds(self) -> bool:
        """Whether what was measured meets the claim, if weakly."""
        return self.verdict in VERDICTS[:2]

    @property
    def failed(self) -> bool:
        """Whether the verdict is not the expected one.

        It is worse than `reproduced`, or than a documented one; or the claim holds for a model that learnt nothing.
        """
        if self.null is not None:
            return self.holds
        if self.verdict == VERDICTS[-1] or self.verdict == UNDECIDED:
            return False
        return VERDICTS.index(self.verdict) > (VERDICTS.index(self.known.verdict) if self.known else 0)

    @property
    def undecided(self) -> bool:
        """Whether it was not measured, through no fault of the claim."""
        return self.verdict == UNDECIDED

    def to_dict(self) -> dict[str, object]:
        """The fields that `mechinterp verify --json` prints."""
        hidden = ("sentence", "known", "reason", "null")
        return {name: value for name, value in asdict(self).items() if name not in hidden}


def verify(
    name: str | Path | None = None,
    retrain: bool = False,
    null: str | None = None,
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
        null: `untrained` or `shuffled-targets`: check that no claim of purpose mechanism holds for models of the same
            architecture that are untrained, or trained on the targets of other examples.
        seeds: With `retrain` or `null`: how many models of each kind (seeds 1000, 1001, ... which nothing was tuned
            on), or their seeds; None for as many as the circuit's `claims.toml` asks.
        out: With `retrain` or `null`: where their Runs are kept, and taken up again; by default nowhere.
        workers: Processes; None for one per core. Models that are passed are measured in this one.
        models: Put another model in the place of a shipped one, by its name: a Transformer, a Run or a Subject.
        only: Ids of the claims to check; None for all.
        progress: True for bars, or a function that is called with (what, done, total).

    Returns:
        One result per claim, in the order of the files; with `null` one per claim and null model.

    Raises:
        ConfigError: If there is no such circuit, or arguments exclude each other.
        RunError: If weights are damaged, or a training failed.

    A claim whose process died twice is `not decided`; the others keep their verdicts.
    """
    _check_arguments(retrain, null, seeds, out, workers, models)
    circuits = [load_circuit(one) for one in ([name] if name is not None else circuit_names())]
    _check_ids(circuits, only or ())
    checked = [mechanism_claims(one, null, only) if null else _checked(one, retrain, only) for one in circuits]
    with Bars(progress) as show, ExitStack() as stack:
        if null or retrain:
            folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            chosen = {one.name: fresh_seeds(one, seeds) for one in circuits}
        if null:
            portions = null_portions(circuits, checked, null, chosen, folder, workers, show)
        elif retrain:
            kinds = {one.name: list(one.models) for one in circuits}
            trained = trained_groups(circuits, kinds, chosen, folder, workers, show)
            groups = [trained[one.name] for one in circuits]
            portions = [_portions(*one, shipped=False) for one in zip(circuits, checked, groups, strict=True)]
        else:
            groups = [[_shipped(one, models or {})] for one in circuits]
            portions = [_portions(*one, shipped=True) for one in zip(circuits, checked, groups, strict=True)]
        everything = [portion for of_circuit in portions for portion in of_circuit]
        outcomes = iter(measure_all(everything, 1 if models else workers, show))
    results = []
    for circuit, claims, of_circuit in zip(circuits, checked, portions, strict=True):
        own = list(islice(outcomes, len(of_circuit)))
        for claim in claims:
            # A null model that meets a claim is one too many, so that each is judged alone.
            results += [
                _judged(claim, some, circuit.name, null) for some in ([[one] for one in own] if null else [own])
            ]
    return results


def _check_arguments(
    retrain: bool,
    null: str | None,
    seeds: int | Sequence[int] | None,
    out: str | Path | None,
    workers: int | None,
    models: Mapping[str, object] | None,
) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}: at least one process is needed")
    if null is not None:
        check_word("null", null, NULL_MODELS)
    if retrain and null:
        raise ConfigError("retrain=True checks claims on models that learnt the task, null= on models that did not")
    if not (retrain or null) and (seeds is not None or out is not None):
        raise ConfigError("seeds and out are about other models than the shipped ones: give retrain=True or null=")
    if (retrain or null) and models:
        raise ConfigError("retrain=True and null= make their own models: give models, or one of these")


def _portions(
    circuit: LoadedCircuit, claims: Sequence[Claim], groups: Sequence[Mapping[str, Subject]], shipped: bool
) -> list[Portion]:
    testable = [claim for claim in claims if not claim.not_testable]
    return [Portion(circuit, testable, group, shipped, len(groups) == 1) for group in groups]


def _judged(claim: Claim, outcomes: Sequence[Outcome[Numbers]], circuit: str, null: str | None) -> ClaimResult:
    """The result of a claim on the models that were measured."""
    failure = next((one.failure for one in outcomes if one.died), "")
    measured = [one.result for one in outcomes if not one.died]
    numbers = [number for by_claim in measured for number in by_claim.get(claim.id, [])]
    return replace(judge(claim, numbers, circuit, failure), null=null)


def _check_ids(circuits: Sequence[LoadedCircuit], only: Sequence[str]) -> None:
    known = [claim.id for circuit in circuits for claim in circuit.claims]
    whose = f"circuit '{circuits[0].name}' claims" if len(circuits) == 1 else "the circuits claim"
    for name in only:
        if name not in known:
            raise ConfigError(f"{whose} no '{name}'.{suggest(name, known)}")


def _checked(circuit: LoadedCircuit, retrain: bool, only: Sequence[str] | None) -> list[Claim]:
    """The claims that are to be checked."""
    mode = "retrained" if retrain else "shipped"
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
    return ClaimResult(
        *about, *ends, claim.tolerance, seeds, verdict, claim.sentence, claim.known, reason, claim.purpose
    )


def _shipped(circuit: LoadedCircuit, models: Mapping[str, object]) -> dict[str, Subject]:
    unknown = sorted(set(models) - set(circuit.models))
    if unknown:
        raise ConfigError(f"circuit '{circuit.name}' has no model '{unknown[0]}'; it has {sorted(circuit.models)}")
    return {name: as_subject(models.get(name, one), one) for name, one in circuit.models.items()}
