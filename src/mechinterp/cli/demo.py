"""`mechinterp demo`: the whole story on the induction task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechinterp.cli.options import Json

if TYPE_CHECKING:
    from mechinterp.training import Run

TASK = "induction"
_Row = dict[str, Any]

WANTED: Sequence[tuple[str, str, float | None]] = (
    ("loss on repeat", "<", 0.5),
    ("loss on repeat, one layer", ">", 2.0),
    ("previous token head", ">", None),
    ("induction head", ">=", 0.5),
    ("gap recovered by the circuit", ">", None),
    ("gap lost when it is removed", ">=", 0.8),
)
"""Finding, or how its name begins, and the bound that it should meet; None for its null."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the Runs and of the report.")] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, data and examples.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small transformer, trace it, find its circuit, date it, judge it, and write the report.

    A one-layer model, which cannot do the task, is trained beside it. A demo that is stopped continues when it is
    started again.
    """
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core.progress import Bars
    from mechinterp.pages import report
    from mechinterp.plots.tables import COLUMNS, finding_cells
    from mechinterp.studies import study

    with Bars(True) as show:
        run, control = trained(Path(out), seed, show)
        results = study(run, seed=seed, progress=show)
    with waiting("writing the report"):
        page = report(run, Path(out) / "report.html", results)
        rows = marked(results.findings + control_rows(control, seed))
    if as_json:
        paths = {"run": run.path, "control": control.path, "report": page}
        emit({"seed": seed, **paths, "verdict": results.verdict, "table": rows})
        return
    cells = [[*finding_cells(row), row["wanted"], {None: "", True: "yes", False: "MISSED"}[row["met"]]] for row in rows]
    # The report has the notes on all numbers.
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["note"] and _needs_note(row):
            names.setdefault(row["note"], []).append(row["name"])
    notes = [f"{'; '.join(some)}: {note}" for note, some in names.items()]
    interval = "Intervals are of one run: over examples, or of the fit; not over seeds."
    columns = [*COLUMNS, "wanted", ""]
    title = f"How an induction circuit forms (seed {seed})"
    table(title, columns, cells, [results.verdict, interval, *notes, f"report: {page}"])


def trained(out: Path, seed: int, show: Any) -> tuple[Run, Run]:
    """The model and its one-layer control, trained side by side in processes."""
    from mechinterp.tasks import get
    from mechinterp.training import Job, resolve, train_jobs

    task = get(TASK)
    jobs = []
    for name, changes in (("two-layer", {}), ("one-layer", {"n_layers": 1})):
        model, training = resolve(task, overrides=changes)
        jobs.append(Job(task, model, training, seed, out / name))
    run, control = train_jobs(jobs, resume=True, progress=show)
    return run, control


def control_rows(control: Run, seed: int) -> list[_Row]:
    """The control's loss on repeats, as a study states a loss."""
    from mechinterp.studies import loss_rows
    from mechinterp.timeline import trace

    timeline = trace(control, "loss", seed, steps=[control.steps[0], control.steps[-1]])
    rows = loss_rows(timeline.sel(group=["repeat"]), control.task.unit)
    return [{**row, "name": f"{row['name']}, one layer"} for row in rows]


def marked(findings: Sequence[_Row]) -> list[_Row]:
    """Findings with `wanted`, the bound in words, and `met`: None where nothing is wanted.

    A wanted finding that is absent, because there is no circuit, has a row of its own and is not met. Where several
    heads share a type, the bound is for the best.
    """
    from mechinterp.plots.tables import in_words

    rows: list[_Row] = [{**row, "wanted": "", "met": None} for row in findings]
    for name, sign, bound in WANTED:
        same = [row for row in rows if row["name"] == name]
        row: _Row = next(iter(same or [row for row in rows if row["name"].startswith(f"{name} ")]), {})
        if not row:
            row = dict.fromkeys(rows[0]) | {"name": name, "note": "", "unit": ""}
            rows.append(row)
        limit = row["null"] if bound is None else bound
        row["wanted"] = "present" if limit is None else f"{sign} {in_words(limit, row['unit'])}"
        row["met"] = row["value"] is not None and limit is not None and _meets(row["value"], sign, limit)
    return rows


def _meets(value: float, sign: str, limit: float) -> bool:
    return value < limit if sign == "<" else value >= limit if sign == ">=" else value > limit


def _needs_note(row: _Row) -> bool:
    """Whether the table needs the finding's note: for a bound that is not met, and for an answer in words."""
    return row["met"] is False or isinstance(row["value"], str)
