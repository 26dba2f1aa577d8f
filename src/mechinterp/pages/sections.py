"""What the page says: one function per section, each with a clear note where a result is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from mechinterp import plots
from mechinterp.curves import Onset
from mechinterp.pages.page import Figure, Section
from mechinterp.plots.tables import finding_cells
from mechinterp.studies import Study
from mechinterp.training import Run


def title(run: Run) -> str:
    """What the page is about."""
    task = (run.config.task or {}).get("name")
    return f"How a transformer learnt {_words(task)}" if task else "How a transformer learnt its task"


def sections(run: Run, study: Study) -> list[Section]:
    """All sections of a Run's report, in reading order."""
    return [
        summary(study),
        loss(run, study),
        theory(run, study),
        heads(study),
        nodes(study),
        graph(study),
        faithfulness(study),
        probes(study),
        settings(run, study),
    ]


def summary(study: Study) -> Section:
    """The table of numbers, each with its interval and null."""
    rows = [(finding_cells(row), _remark(row)) for row in study.findings]
    lead = (
        "Each number with its 95% interval and, in the last column, what the same measurement gives without a finding."
    )
    return Section("numbers", "The numbers", lead, rows=rows, notes=() if rows else [_missing("findings")])


def loss(run: Run, study: Study) -> Section:
    """Loss over training with onsets and reference predictors."""
    title = "When it was learnt"
    metrics = _losses(run, study)
    if not metrics.data_vars:
        return Section("loss", title, notes=["This Run logged no loss, and none was measured."])
    late = [f"{name}: {onset.reason}" for name, onset in study.onsets.items() if not onset.found]
    notes = [f"No transition is claimed for {'; '.join(late)}."] if late else []
    training = run.config.training
    if training is not None and training.loss_on == "scored" and "loss" in metrics and len(metrics.data_vars) > 2:
        notes.append("Training counted scored positions only: nothing held the loss down elsewhere.")
    figure = Figure(
        "loss-plot",
        plots.loss_curve(metrics, study.onsets, study.predictors, _unit("mse" if _valued(run) else "log_prob")),
        "Lower is better; the step axis is logarithmic, with step 0 (before training) at its left end. Dotted vertical "
        "lines mark when each measure made half of its jump, the grey band its 95% interval. Dashed lines are what "
        "simple predictors would pay: below the line the model knows more than that.",
        _loss_alt(metrics, study.onsets),
    )
    return Section(
        "loss",
        title,
        "The model's loss over training, and the steps at which its parts appeared.",
        [figure],
        notes=notes,
    )


def theory(run: Run, study: Study) -> Section:
    """Reference predictors over training."""
    title = "What theory explains of it"
    if "predictor_distance" not in study.timeline:
        return Section("theory", title, notes=[_missing("distance to reference predictors")])
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
    return Section("theory", title, lead, [figure])


def heads(study: Study) -> Section:
    """Every head's attention scores over training."""
    title = "What each attention head does"
    if "head_scores" not in study.timeline:
        return Section("heads", title, notes=[_missing("head scores over training")])
    chosen = [head for group in study.heads.values() for head in group]
    figure = Figure(
        "heads-plot",
        plots.head_scores(study.timeline, chosen=list(dict.fromkeys(chosen)), nulls=study.nulls, onsets=study.onsets),
        "One line per head: the share of its attention that goes where the panel's name says. Heads that play a role "
        "are coloured and named, with a band of two standard errors; all others are light grey. The grey band with its "
        "dashed edge is what the best of an untrained model's heads reaches by luck.",
        f"Scores of every head over training. Highlighted: {', '.join(chosen) or 'none'}.",
    )
    shared = [
        f"{len(g)} heads share the role {_words(role)}: {', '.join(g)}."
        for role, g in study.heads.items()
        if len(g) > 1
    ]
    return Section(
        "heads", title, "An attention pattern suggests a role; the next sections test it.", [figure], notes=shared
    )


def nodes(study: Study) -> Section:
    """Node patching by role."""
    title = "Where the answer passes through"
    if study.nodes is None:
        return Section("nodes", title, notes=[_missing("node patching")])
    figure = Figure(
        "nodes-plot",
        plots.node_heatmap(study.nodes),
        "Rows are heads, layer 0 at the bottom; columns are positions by what stands there. A cell says how much of "
        "the difference between the intact and the corrupted run comes back when only this head's output, only there, "
        "is taken from the intact run. 1 is everything, 0 nothing; orange cells make it worse.",
        "Heatmap of the share of the gap that each head restores at each role.",
    )
    return Section("nodes", title, "Causal evidence, one component at a time.", [figure])


def graph(study: Study) -> Section:
    """The circuit over training."""
    title = "The circuit"
    if "edge_effects" not in study.timeline:
        return Section("circuit", title, notes=[_missing("edge effects over training")])
    effects = study.timeline["edge_effects"]
    figure = Figure(
        "circuit-plot",
        plots.circuit_graph(
            effects, study.circuit, study.timeline.get("edge_effects_se"), _unit(str(effects.attrs.get("metric")))
        ),
        "Information flows upwards. A line is one wire, as wide as the effect of cutting it; blue wires help, orange "
        "ones hurt. A head reads through three ports: q (what it looks for), k (what it is found by) and v (what it "
        "passes on). Move the slider, press play, or use the arrow keys to see the wires at other steps.",
        f"The model's components by layer and the wires between them at {effects.sizes.get('step', 1)} checkpoints. "
        f"The circuit has {len(study.circuit)} wires.",
    )
    lead = "Every wire between two components, cut one by one at every checkpoint."
    return Section("circuit", title, lead, [figure])


def faithfulness(study: Study) -> Section:
    """How much of the behaviour circuits of each size recover."""
    title = "How much the circuit explains"
    if study.curve is None:
        return Section("faithfulness", title, notes=[_missing("a faithfulness curve")])
    if not bool(study.curve["valid"]):
        gap = "The gap between the intact and the corrupted run is not distinguishable from zero: nothing to explain."
        return Section("faithfulness", title, notes=[gap])
    figure = Figure(
        "faithfulness-plot",
        plots.faithfulness_curve(study.curve, study.evaluation, fewest=study.fewest_edges),
        "All wires outside a circuit carry values from the corrupted run. 100% means that the circuit alone does as "
        "well as the whole model, 0% that it does no better than none. Grey strokes are random circuits of the same "
        "size, built of whole paths from input to logits.",
        "Faithfulness against circuit size, beside random circuits.",
    )
    lead = (
        "Keep only the strongest wires, and ask how much of the behaviour is left, on examples the search did not see."
    )
    return Section("faithfulness", title, lead, [figure])


def probes(study: Study) -> Section:
    """Probes, and what erasing costs."""
    title = "What can be read from the model, and what it uses"
    if not study.probes:
        return Section("probes", title, notes=[_missing("probes")])
    figure = Figure(
        "probes-plot",
        plots.probe_bars(study.probes),
        "Above: how well a linear probe names a hidden variable on sequences it has not seen; marks show the same "
        "probe on an untrained model, after training on shuffled labels, and a guess that never changes. Below: how "
        "much worse the model does once that variable is erased, in grey when as many random directions are. A long "
        "bar above whose blue bar below is no longer than the grey one is a variable that is there but not used.",
        f"Probe scores with their nulls, and the cost of erasing, for {', '.join(map(_words, study.probes))}.",
    )
    return Section("probes", title, "Decodable is not the same as used: both are shown.", [figure])


def settings(run: Run, study: Study) -> Section:
    """Configuration and versions."""
    record = run.config.model_dump(mode="json")
    groups = {name: record.pop(name) for name in ("task", "model", "training", "settings", "versions")}
    made = {"Run": record | {"checkpoints": len(run.steps)}, **groups, "study": study.settings}
    shown = {
        name.capitalize(): {key.replace("_", " "): str(value) for key, value in values.items() if value is not None}
        for name, values in made.items()
        if values
    }
    return Section(
        "settings",
        "Configuration and versions",
        "Same settings, seed and versions give the same weights, bit for bit.",
        settings=shown,
    )


def _remark(row: Mapping[str, Any]) -> str:
    """Where a number was taken, and what is to be said about it."""
    where, note = str(row.get("where") or ""), str(row.get("note") or "")
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


def _missing(what: str) -> str:
    return f"This study holds no {what}."


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _loss_alt(metrics: xr.Dataset, onsets: Mapping[str, Onset]) -> str:
    name = "loss" if "loss" in metrics else next(str(n) for n in metrics.data_vars if str(n).startswith("loss"))
    values = metrics[name].dropna("step").values
    ends = f"falls from {values[0]:.3g} to {values[-1]:.3g}" if len(values) else "was never finite"
    dates = ", ".join(f"{what} at step {onset.step:.0f}" for what, onset in onsets.items() if onset.found)
    return f"Line chart: {name} {ends} over training." + (f" Onsets: {dates}." if dates else "")
