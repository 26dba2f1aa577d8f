"""`mechinterp verify`: check claims, on shipped weights or on models trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.output import CommandOutput

if TYPE_CHECKING:
    from mechinterp.claims import ClaimResult


def verify(
    name: Annotated[str, typer.Argument(metavar="[CIRCUIT]", help="A circuit or its folder (all).")] = "",
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the models from scratch and check those.")] = False,
    null: Annotated[
        str,
        typer.Option("--null", help="untrained or shuffled-targets: no claim of a mechanism may hold for such models."),
    ] = "",
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=0, help="With --retrain, --null: models of each kind; 0: as many as claims ask."),
    ] = 0,
    only: Annotated[str, typer.Option("--only", help="Ids of claims, separated by commas (all).")] = "",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 is one per core.")] = 0,
    out: Annotated[
        str, typer.Option("--out", help="With --retrain, --null: folder that keeps the Runs, and resumes them.")
    ] = "",
) -> CommandOutput:
    """Check the claims that ship with the package. The exit status is 1 if one fails, else 3 if one is not decided."""
    from mechinterp.claims import verify as check

    results = check(
        name or None,
        retrain=retrain,
        null=null or None,
        seeds=seeds or None,
        out=out or None,
        workers=workers or None,
        only=[name.strip() for name in only.split(",")] if only else None,
        progress=True,
    )
    data = [one.to_dict() for one in results]
    if null:
        return CommandOutput(data, *_on_nulls(null, results), _status(results))
    kind = f"models trained from scratch, {seeds or 'as many as claimed'} of each" if retrain else "shipped weights"
    return CommandOutput(data, f"Claims, checked on {kind}", *_on_models(results), _status(results))


def _on_models(results: Sequence[ClaimResult]) -> tuple[list[dict[str, object]], list[str]]:
    """Rows and notes where claims are to hold."""
    from mechinterp.claims import VERDICTS

    columns = ("circuit", "claim", "purpose", "measured", "low", "high", "tolerance", "published")
    rows: list[dict[str, object]] = [
        {**{name: getattr(one, name) for name in columns}, "verdict": _verdict(one)} for one in results
    ]
    ends = "low and high: 95% over seeds, or over examples where one model was measured"
    known = [f"* {one.claim}: {one.known.why}" for one in results if one.known and not one.failed]
    failed = [one.claim for one in results if one.failed]
    undecided = [one.claim for one in results if one.undecided]
    untestable = [one.claim for one in results if one.verdict == VERDICTS[-1]]
    decided = len(results) - len(untestable) - len(undecided)
    rest = f"; {len(untestable)} not testable" if untestable else ""
    rest += f"; NOT DECIDED: {', '.join(undecided)}" if undecided else ""
    last = f"FAILED: {', '.join(failed)}{rest}" if failed else f"all {decided} claims came out as stated{rest}"
    why = [f"{one.claim}: {one.reason}" for one in results if one.reason]
    return rows, [ends, *known, *why, last]


def _on_nulls(null: str, results: Sequence[ClaimResult]) -> tuple[str, list[dict[str, object]], list[str]]:
    """Title, rows and notes where claims are to fail: a row per claim, with the number of models that it holds for."""
    rows: list[dict[str, object]] = []
    wrong: list[str] = []
    for circuit, claim in dict.fromkeys((one.circuit, one.claim) for one in results):
        own = [one for one in results if (one.circuit, one.claim) == (circuit, claim)]
        numbers = [one.measured for one in own if one.measured is not None and math.isfinite(one.measured)]
        count = sum(one.holds for one in own)
        wrong += [f"{circuit}/{claim}"] if count else []
        ends = {"least": min(numbers, default=None), "most": max(numbers, default=None)}
        rows.append(
            {"circuit": circuit, "claim": claim, "tolerance": own[0].tolerance, **ends}
            | {"no number": len(own) - len(numbers), "holds": f"{count} of {len(own)}"}
        )
    undecided = sum(one.undecided for one in results)
    last = f"HOLDS FOR A NULL MODEL: {', '.join(wrong)}" if wrong else f"none of {len(rows)} claims holds"
    last += f"; NOT DECIDED: {undecided} of {len(results)}" if undecided else ""
    notes = ["least and most: of the models that have the number; no number: no gap to take shares of, or no such head"]
    return f"Claims of a mechanism, on {null} models", rows, [*notes, last]


def _status(results: Sequence[ClaimResult]) -> int:
    if any(one.failed for one in results):
        return 1
    return 3 if any(one.undecided for one in results) else 0


def _verdict(result: ClaimResult) -> str:
    return result.verdict + ("*" if result.known and not result.failed else "")
