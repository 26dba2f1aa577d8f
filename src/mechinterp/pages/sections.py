"""What the page shows: one function per section, and `SECTIONS`, the list of them in reading order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import xarray as xr

from mechinterp import plots
from mechinterp.curves import Onset
from mechinterp.pages.page import Body, Figure, Section
from mechinterp.plots.tables import finding_cells
from mechinterp.studies import Account, Study, account
from mechinterp.studies.account import METHODS_HEADING
from mechinterp.studies.part import Finding
from mechinterp.training import Run


def title(run: Run) -> str:
    """What the page is about."""
    task = (run.config.task or {}).get("name")
    return f"How a transformer learnt {_words(str(task))}" if task else "How a transformer learnt its task"


def sections(run: Run, study: Study) -> list[Section]:
    """All sections of a Run's report, in reading order; a section says so where the study lacks its part."""
    results = []
    for one in SECTIONS:
        missing = Body(notes=[f"This study holds no {one.missing}."])
        results.append(Section(one.name, one.title, one.write(run, study) if _has(study, one.needs) else missing))
    return results


@dataclass(frozen=True)
class Entry:
    """One section of the report.

    Args:
        name: Its anchor.
        title: Its heading.
        write: Its content, from the Run and a study that has what it needs.
        needs: A part of the study, or a variable of one as `timeline/edge_effects`; empty for none.
        missing: What the study lacks otherwise, for a note.
    """

    name: str
    title: str
    write: Callable[[Run, Study], Body]
    needs: str = ""
    missing: str = ""


def numbers(run: Run, study: Study) -> Body:
    """The table of numbers, each with its interval and null."""
    rows = [(finding_cells(row), _remark(row)) for row in study.findings]
    lead = (
        "Each number with its 95% interval and, in the last column, what the same measurement gives without a finding."
    )
    return Body(lead, rows=rows, notes=() if rows else ["This study holds no findings."])


def loss(run: Run, study: Study) -> Body:
    """Loss over training with onsets and reference predictors."""
    metrics = _losses(run, study)
    if not metrics.data_vars:
        return Body(notes=["This Run logged no loss, and the study measured none."])
    late = [f"{name}: {onset.reason}" for name, onset in study.onsets.items() if not onset.found]
    notes = [f"No transition is claimed for {'; '.join(late)}."] if late else []
    training = run.config.training
    if training is not None and training.loss_on == "scored" and "loss" in metrics and len(metrics.data_vars) > 2:
        notes.append("Training counted scored positions only: the loss elsewhere is not trained.")
    figure = Figure(
        "loss-plot",
        plots.loss_curve(metrics, study.onsets, study.predictors, _unit("mse" if _valued(run) else "log_prob")),
        "Lower is better; the step axis is logarithmic, with step 0 (before training) at its left end. Dotted vertical "
        "lines mark when each measure reaches half of its jump, the grey band its 95% interval. Dashed lines are what "
        "simple predictors get: below such a line the model knows more than that predictor.",
        _loss_alt(metrics, study.onsets),
    )
    return Body("The model's loss over training, and the steps at which its parts appeared.", [figure], notes=notes)


def theory(run: Run, study: Study) -> Body:
    """Reference predictors over training."""
    figure = Figure(
        "theory-plot",
        plots.theory(study.timeline, unit=_unit("mse" if _valued(run) else "log_prob")),
        "Above: how far the model's answers are from those of each simple predictor, on a logarithmic axis; the strip "
        "says which one is nearest. Below: how far the model is from knowing nothing, split into what the nearest "
        "predictor explains of that and what it does not.",
        "Distance from the model to each reference predictor over training.",
    )
    lead = (
        "Which known rule the model's answers are closest to at each step, and how much that rule leaves unexplained."
    )
    return Body(lead, [figure])


def order_parameters(run: Run, study: Study) -> Body:
    """Order parameters on one axis with the loss."""
    data = study.parts["order-parameters"]
    figure = Figure(
        "order-plot",
        plots.order_parameters(data),
        "Each line runs from its least value (0) to its largest (1); both stand beside its name. The loss is black. "
        "Lines that turn at one step may belong to one change; which came first, the table of numbers says.",
        f"Over training, each over its own range: {', '.join(_words(str(name)) for name in data.data_vars)}.",
    )
    checks = [row for row in study.findings if row["name"].endswith(" alike")]
    notes = [f"Mirage check, {row['name']}: {row['value']}." for row in checks]
    return Body("Numbers that tell one phase of training from the next, beside the loss.", [figure], notes=notes)


def heads(run: Run, study: Study) -> Body:
    """Every head's attention scores over training."""
    chosen = [head for group in study.heads.values() for head in group]
    figure = Figure(
        "heads-plot",
        plots.head_scores(study.timeline, chosen=list(dict.fromkeys(chosen)), nulls=study.nulls, onsets=study.onsets),
        "One line per head: the share of its attention that goes where the panel's name says. Heads of a type "
        "are coloured and named, with a band of two standard errors; all others are light grey. The grey band with its "
        "dashed edge is what the best of an untrained model's heads reaches by luck.",
        f"Scores of every head over training. Highlighted: {', '.join(chosen) or 'none'}.",
    )
    shared = [
        f"{len(group)} heads share the type {_words(name)}: {', '.join(group)}."
        for name, group in study.heads.items()
        if len(group) > 1
    ]
    return Body("An attention pattern suggests a type; the next sections test it.", [figure], notes=shared)


def nodes(run: Run, study: Study) -> Body:
    """Node patching by role."""
    figure = Figure(
        "nodes-plot",
        plots.node_heatmap(study.parts["nodes"]),
        "Rows are heads, layer 0 at the bottom; columns are positions by what stands there. A cell says how much of "
        "the difference between the intact and the corrupted run comes back when only this head's output, only there, "
        "is taken from the intact run. 1 is everything, 0 nothing; orange cells make it worse.",
        "Heatmap of the share of the gap that each head restores at each role.",
    )
    return Body("Causal evidence, one component at a time.", [figure])


def graph(run: Run, study: Study) -> Body:
    """The circuit over training."""
    effects = study.timeline["edge_effects"]
    figure = Figure(
        "circuit-plot",
        plots.circuit_graph(
            effects,
            study.circuit,
            study.timeline.get("edge_effects_se"),
            None if study.evaluation is None else study.evaluation.get("edge_state"),
            _unit(str(effects.attrs.get("metric"))),
        ),
        "Information flows upwards. A line is one wire, as wide as the effect of cutting it; blue wires help, orange "
        "ones hurt. A head reads through three ports: q (what it looks for), k (what it matches that with) and v (what "
        "it passes on). Move the slider, press play, or use the arrow keys to see the wires at other steps.",
        f"The model's components by layer and the wires between them at {effects.sizes.get('step', 1)} checkpoints. "
        f"The circuit has {len(study.circuit)} wires.",
    )
    lead = "Every wire between two components, cut one by one at every checkpoint."
    return Body(lead, [figure])


def faithfulness(run: Run, study: Study) -> Body:
    """How much of the behaviour circuits of each size recover."""
    if not bool(study.parts["curve"]["valid"]):
        gap = "The gap between the intact and the corrupted run is not distinguishable from zero: nothing to recover."
        return Body(notes=[gap])
    figure = Figure(
        "faithfulness-plot",
        plots.faithfulness_curve(study.parts["curve"], study.evaluation, fewest=study.fewest_edges),
        "All wires outside a circuit carry values from the corrupted run. 100% means that the circuit alone does as "
        "well as the whole model, 0% that it does no better than none. Grey strokes are random circuits of the same "
        "size, built of whole paths from input to logits.",
        "Faithfulness against circuit size, beside random circuits.",
    )
    lead = (
        "Keep only the strongest wires, and ask how much of the behaviour is left, on examples the search did not see."
    )
    return Body(lead, [figure])


def probes(run: Run, study: Study) -> Body:
    """Probes, and what erasing costs."""
    figure = Figure(
        "probes-plot",
        plots.probe_bars(study.probes),
        "Above: how well a linear probe names a hidden variable on held-out sequences; marks show the same "
        "probe on an untrained model, after training on shuffled labels, and a guess that never changes. Below: how "
        "much worse the model does once that variable is erased, in grey when as many random directions are. A long "
        "bar above whose blue bar below is no longer than the grey one is a variable that is there but not used.",
        f"Probe scores with their nulls, and the cost of erasing, for {', '.join(map(_words, study.probes))}.",
    )
    return Body("Decodable is not the same as used: both are shown.", [figure])


def in_sentences(results: Account) -> Body:
    """An account, its methods as one paragraph."""
    lists = {**results.sections, METHODS_HEADING: [results.methods]}
    return Body("What formed when, with what evidence, and what was tested and not found.", lists=lists)


def settings(run: Run, study: Study) -> Body:
    """Configuration and versions."""
    record = run.config.model_dump(mode="json")
    groups = {name: record.pop(name) for name in ("task", "model", "training", "settings", "versions")}
    tables = {"Run": record | {"checkpoints": len(run.steps)}, **groups, "study": study.settings}
    shown = {
        name.capitalize(): {key.replace("_", " "): str(value) for key, value in values.items() if value is not None}
        for name, values in tables.items()
        if values
    }
    return Body("Same settings, seed and versions give the same weights, bit for bit.", settings=shown)


SECTIONS = (
    Entry("numbers", "The numbers", numbers),
    Entry("loss", "When it was learnt", loss),
    Entry(
        "theory",
        "What theory explains of it",
        theory,
        "timeline/predictor_distance",
        "distance to reference predictors",
    ),
    Entry("order", "What changes together", order_parameters, "order-parameters", "order parameters"),
    Entry("heads", "What each attention head does", heads, "timeline/head_scores", "head scores over training"),
    Entry("nodes", "Where the answer passes through", nodes, "nodes", "node patching"),
    Entry("circuit", "The circuit", graph, "timeline/edge_effects", "edge effects over training"),
    Entry("faithfulness", "How much the circuit explains", faithfulness, "curve", "faithfulness curve"),
    Entry("probes", "What can be read from the model, and what it uses", probes, "probe-*", "probes"),
    Entry("account", "The account", lambda run, study: in_sentences(account(study))),
    Entry("settings", "Configuration and versions", settings),
)
"""In reading order. To show a result, write a function above and add its entry."""


def _has(study: Study, needs: str) -> bool:
    part, _, variable = needs.partition("/")
    names = [name for name in study.parts if fnmatchcase(name, part)]
    return not needs or any(not variable or variable in study.parts[name] for name in names)


def _remark(row: Finding) -> str:
    """Where a number is taken, and the note on it."""
    where, note = row.get("where", ""), row.get("note", "")
    return " ".join(part for part in (f"{where[:1].upper()}{where[1:]}." if where else "", note) if part)


def _losses(run: Run, study: Study) -> xr.Dataset:
    """The losses that training logged; for a Run that logged none, those measured at its checkpoints."""
    logged = run.metrics()
    if logged.sizes.get("step") and any(str(name).startswith("loss") for name in logged.data_vars):
        return logged
    measured = study.timeline
    if "loss" not in measured or "group" not in measured["loss"].dims:
        return xr.Dataset()
    groups = [str(group) for group in measured["group"].values]
    parts = {"": "loss", "_se": "loss_se"}
    return xr.Dataset(
        {f"loss_{g}{end}": measured[name].sel(group=g, drop=True) for g in groups for end, name in parts.items()}
    )


def _valued(run: Run) -> bool:
    return run.config.model is not None and run.config.model.outputs == "values"


def _unit(metric: str) -> str:
    return {"mse": "squared distance", "accuracy": "accuracy"}.get(metric, "nats")


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _loss_alt(metrics: xr.Dataset, onsets: Mapping[str, Onset]) -> str:
    name = "loss" if "loss" in metrics else next(str(n) for n in metrics.data_vars if str(n).startswith("loss"))
    values = metrics[name].dropna("step").values
    ends = f"falls from {values[0]:.3g} to {values[-1]:.3g}" if len(values) else "was never finite"
    dates = ", ".join(f"{what} at step {onset.step:.0f}" for what, onset in onsets.items() if onset.found)
    return f"Line chart: {name} {ends} over training." + (f" Onsets: {dates}." if dates else "")
