"""`mechinterp demo`: the whole story on the induction task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechinterp.cli.options import Json

if TYPE_CHECKING:
    from mechinterp.studies import Study
    from mechinterp.training import Run

TASK = "induction"
ROLES = {"previous_token": "previous-token head", "induction": "induction head"}
SHARE = 0.9
ENDS = ("", "_low", "_high")
Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the Runs and of the report.")] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", help="Seed of weights, data and examples.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small transformer, trace it, find its circuit, date it, judge it, and write the report.

    Beside it a one-layer model is trained, which cannot do the task. Stopped and started again, it goes on.
    """
    from mechinterp.cli.output import emit, table, waiting
    from mechinterp.core.progress import Bars
    from mechinterp.pages import report
    from mechinterp.studies import study

    with Bars(True) as show:
        run, control = trained(Path(out), seed, show)
        found = study(run, seed=seed, progress=show)
    with waiting("writing the report"):
        page = report(run, Path(out) / "report.html", found)
        rows = story(found, control)
    if as_json:
        emit({"seed": seed, "run": run.path, "control": control.path, "report": page, "table": rows})
        return
    columns = ["", "value", "95% interval*", "null, or out of", "wanted", ""]
    shown = [[row["name"], row["value"], _interval(row), row["beside"], row["wanted"], _met(row)] for row in rows]
    notes = [
        "* of one run: over examples, or of the fit; not over seeds",
        str(found),
        *(row["note"] for row in rows if row["note"]),
        f"report: {page}",
    ]
    table(f"How an induction circuit formed (seed {seed})", columns, shown, notes)


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


def story(found: Study, control: Run) -> list[Row]:
    """The table: every number with its interval, what stands beside it, and what was wanted of it."""
    return [*_heads(found), *_order(found), *_losses(found, control), *_circuit(found)]


def _heads(found: Study) -> list[Row]:
    from mechinterp.curves import onset

    rows, last = [], found.timeline.isel(step=-1)
    for role, name in ROLES.items():
        group = found.heads.get(role, [])
        if not group:
            rows.append(
                _row(name, None, note=f"No head of the model plays the role of {name}.", met=False, wanted="one")
            )
        for head in group:
            layer, number = (int(part) for part in head.removeprefix("L").split(".H"))
            place = {"score": role, "layer": layer, "head": number}
            score, error = (float(last[part].sel(place)) for part in ("head_scores", "head_scores_se"))
            wanted = 0.5 if role == "induction" and head == group[0] else None
            luck = f"best untrained {found.nulls[role][1]:.2f}" if head == group[0] else ""
            ends = (score - 1.96 * error, score + 1.96 * error)
            rows.append(_row(f"{name} {head}", score, ends, luck, *_at_least(score, wanted)))
            when = onset(found.timeline["head_scores"].sel(place, drop=True))
            if when.found:
                rows.append(_row(f"    {head} half of its change at step", when.step, (when.low, when.high)))
            else:
                rows.append(_row(f"    {head} appeared", "no transition", note=f"{head}: {when.reason}."))
        if len(group) > 1:
            rows[-1]["note"] += f"{len(group)} heads share the role of {name}: {', '.join(group)}."
    return rows


def _order(found: Study) -> list[Row]:
    """Dates only describe: which role came first is asked of first passages, at thresholds declared beforehand."""
    rows = (row for row in found.findings if row["name"].startswith("order of"))
    return [_row("which came first", row["value"], note=f"{row['name']}: {row['note']}") for row in rows]


def _losses(found: Study, control: Run) -> list[Row]:
    from mechinterp.core.statistics import t_interval
    from mechinterp.measures import measure

    last = found.timeline.isel(step=-1).sel(group="repeat")
    loss, error = float(last["loss"]), float(last["loss_se"])
    single = measure("loss")(control.model(), control.task, found.settings["seed"]).sel(group="repeat")
    alone = float(single.mean())
    ends = (loss - 1.96 * error, loss + 1.96 * error)
    return [
        _row("loss on repeats, nats", loss, ends, wanted="< 0.5", met=loss < 0.5),
        _row("the same with one layer", alone, t_interval(single.values), wanted="> 2", met=alone > 2),
    ]


def _circuit(found: Study) -> list[Row]:
    from mechinterp.evaluation import fewest_edges
    from mechinterp.studies.findings import CLEAR

    judged, line = found.evaluation, found.curve
    if judged is None or line is None:
        return [_row("circuit", None, wanted="one", met=False, note="There is no gap to recover, and so no circuit.")]
    k = fewest_edges(line, SHARE)
    alive = int(judged["live_edges"])
    fewest = None if k is None else int(line["size"].sel(k=k))
    recovered, cost, chance = (float(judged[n]) for n in ("faithfulness", "removal_cost", "null_faithfulness_p95"))
    size = int(judged["live_size"])
    out_of, random = f"of {alive} not always zero", f"95% of random ones below {chance:.2f}"
    ends, lost = _ends(judged, "faithfulness"), _ends(judged, "removal_cost")
    wanted = f"> {chance:.2f}"
    chance_lost = float(judged["null_removal_cost_p95"])
    little = "Removing almost any circuit of this size breaks the behaviour: that loss singles out nothing."
    return [
        _row(f"edges with which the held-out curve reaches {SHARE:.0%}", fewest, beside=out_of),
        _row("edges of the circuit, found on other pairs", size, beside=out_of),
        _row("    gap it recovers, held out", recovered, ends, random, wanted, recovered > chance),
        *_by_corruption(judged),
        _row(
            "    gap lost without it",
            cost,
            lost,
            f"95% of random ones below {chance_lost:.2f}",
            *_at_least(cost, 0.8),
            note="" if cost > chance_lost + CLEAR else little,
        ),
    ]


def _by_corruption(judged: Any) -> list[Row]:
    rows = []
    for kind in judged["corruption"].values if "corruption" in judged.coords else []:
        value, low, high = (float(judged[f"corruption_faithfulness{end}"].sel(corruption=kind)) for end in ENDS)
        rows.append(_row(f"    ... where the corruption is '{kind}'", value, (low, high)))
    return rows


def _row(
    name: str,
    value: Any,
    ends: tuple[float, float] | None = None,
    beside: str = "",
    wanted: str = "",
    met: bool | None = None,
    note: str = "",
) -> Row:
    low, high = ends or (None, None)
    numbers = {"name": name, "value": value, "low": low, "high": high}
    return {**numbers, "beside": beside, "wanted": wanted, "met": met, "note": note}


def _at_least(value: float, bound: float | None) -> tuple[str, bool | None]:
    return ("", None) if bound is None else (f">= {bound:g}", value >= bound)


def _ends(judged: Any, name: str) -> tuple[float, float]:
    return float(judged[f"{name}_low"]), float(judged[f"{name}_high"])


def _interval(row: Row) -> str:
    from mechinterp.cli.output import number

    return "" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "MISSED"}[row["met"]]
