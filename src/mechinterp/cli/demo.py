"""`mechinterp demo`: the whole story on the induction task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.output import CommandOutput, waiting

if TYPE_CHECKING:
    from mechinterp.studies.part import Finding
    from mechinterp.training import Run

TASK = "induction"


@dataclass(frozen=True, eq=False)
class Marked:
    """A finding, and what is wanted of it.

    Args:
        finding: The finding.
        wanted: The bound that it should meet, in words; empty where nothing is wanted.
        met: Whether it does; None where nothing is wanted.
    """

    finding: Finding
    wanted: str = ""
    met: bool | None = None


WANTED: Sequence[tuple[str, str, float | None]] = (
    ("loss on repeat", "<", 0.5),
    ("loss on repeat, one layer", ">", 2.0),
    ("previous token head", ">", None),
    ("induction head", ">=", 0.5),
    ("gap recovered by the circuit", ">", None),
    ("gap lost when it is removed", ">=", 0.8),
)
"""Finding, or how its name begins, and the bound that it should meet; None for its null."""


def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the Runs and of the report.")] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, data and examples.")] = 0,
) -> CommandOutput:
    """Train a small transformer, trace it, find its circuit, date it, judge it, and write the report.

    A one-layer model, which cannot do the task, is trained beside it. A demo that is stopped continues when it is
    started again.
    """
    from mechinterp.pages import report
    from mechinterp.plots.tables import COLUMNS, finding_cells
    from mechinterp.studies import study

    run, control = trained(Path(out), seed)
    results = study(run, seed=seed, progress=True)
    with waiting("writing the report"):
        page = report(run, Path(out) / "report.html", results)
        rows = marked(results.findings + control_rows(control, seed))
    paths = {"run": run.path, "control": control.path, "report": page}
    data = {"seed": seed, **paths, "verdict": results.verdict}
    data["table"] = [{**row.finding, "wanted": row.wanted, "met": row.met} for row in rows]
    outcome = {None: "", True: "yes", False: "MISSED"}
    columns = (*COLUMNS, "wanted", "")
    table: list[dict[str, str]] = []
    for row in rows:
        cells = (*finding_cells(row.finding), row.wanted, outcome[row.met])
        table.append(dict(zip(columns, cells, strict=True)))
    # The report has the notes on all numbers.
    names: dict[str, list[str]] = {}
    for row in rows:
        # Of a bound that is not met, and of an answer in words.
        if row.finding["note"] and (row.met is False or isinstance(row.finding["value"], str)):
            names.setdefault(row.finding["note"], []).append(row.finding["name"])
    notes = [f"{'; '.join(some)}: {note}" for note, some in names.items()]
    interval = "Intervals are of one run: over examples, or of the fit; not over seeds."
    title = f"How an induction circuit forms (seed {seed})"
    return CommandOutput(data, title, table, [results.verdict, interval, *notes, f"report: {page}"])


def trained(out: Path, seed: int) -> tuple[Run, Run]:
    """The model and its one-layer control, trained side by side in processes."""
    from mechinterp.tasks import get
    from mechinterp.training import Job, resolve, train_jobs

    task = get(TASK)
    jobs = []
    for name, changes in (("two-layer", {}), ("one-layer", {"n_layers": 1})):
        model, training = resolve(task, overrides=changes)
        jobs.append(Job(task, model, training, seed, out / name))
    run, control = train_jobs(jobs, resume=True, progress=True)
    return run, control


def control_rows(control: Run, seed: int) -> list[Finding]:
    """The control's loss on repeats, as a study states a loss."""
    from mechinterp.studies import loss_rows
    from mechinterp.timeline import trace

    timeline = trace(control, "loss", seed, steps=[control.steps[0], control.steps[-1]])
    rows = loss_rows(timeline.sel(group=["repeat"]), control.task.unit)
    return [{**row, "name": f"{row['name']}, one layer"} for row in rows]


def marked(findings: Sequence[Finding]) -> list[Marked]:
    """All findings, those of `WANTED` with their bound.

    A wanted finding that is absent, because there is no circuit, has a row of its own and is not met. Where several
    heads share a type, the bound is for the best.
    """
    from mechinterp.studies.part import row

    rows = [Marked(finding) for finding in findings]
    names = [finding["name"] for finding in findings]
    for name, sign, bound in WANTED:
        where = next((at for at, other in enumerate(names) if other == name), None)
        if where is None:
            where = next((at for at, other in enumerate(names) if other.startswith(f"{name} ")), None)
        if where is None:
            rows.append(_marked(row(name, None), sign, bound))
        else:
            rows[where] = _marked(findings[where], sign, bound)
    return rows


def _marked(finding: Finding, sign: str, bound: float | None) -> Marked:
    from mechinterp.plots.tables import in_words

    value, limit = finding["value"], finding["null"] if bound is None else bound
    wanted = "present" if limit is None else f"{sign} {in_words(limit, finding['unit'])}"
    if isinstance(value, str) or isinstance(limit, str) or value is None or limit is None:
        return Marked(finding, wanted, met=False)
    return Marked(finding, wanted, value < limit if sign == "<" else value >= limit if sign == ">=" else value > limit)
