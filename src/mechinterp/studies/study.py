"""`study`: the whole story of one Run, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from mechinterp.core import Circuit, UnsupportedError, derive_seed
from mechinterp.core.progress import Bars
from mechinterp.curves.mirage import mirage_check
from mechinterp.curves.onset import Onset, onset
from mechinterp.measures import Measure, measure
from mechinterp.models import Transformer
from mechinterp.studies import findings
from mechinterp.studies.causal import Explained, explain, has_pairs, read_latents
from mechinterp.studies.roles import ROLES, Heads, choose_heads, head_of
from mechinterp.studies.shelf import load_study, run_key, save_study
from mechinterp.tasks import Task
from mechinterp.timeline.tracing import Progress, trace

LOSS_JUMP = 0.5
"""Least change of a loss that counts as a transition: nats; for real values a share of the untrained model's loss."""


@dataclass(frozen=True, eq=False)
class Study:
    """What `study` found about one Run.

    Args:
        verdict: The outcome in a sentence or two.
        findings: Rows with name, value, low, high, null, unit, where and note: the flat table of all numbers.
        timeline: head scores, loss, accuracy, margin, for a task with predictors the distance to each, and for one with
            pairs edge and node effects, at every checkpoint.
        heads: Role -> heads that play it, the best first; more than one where they share it.
        nulls: Head score -> (mean, maximum) of the best head over untrained models.
        onsets: What -> its onset: each role's best head, and the loss on the task's first group.
        circuit: The circuit at the last step.
        fewest_edges: How many edges were taken by rank, before pruning; None where there is no circuit.
        nodes: Effects of heads' outputs by role at the last step, on held-out pairs; None without pairs.
        curve: Faithfulness by number of edges, on held-out pairs; None without pairs.
        evaluation: The circuit on held-out pairs beside random circuits; None without a circuit.
        probes: Hidden variable -> what `probe` returned.
        predictors: Reference predictor -> its loss on scored positions.
        settings: Seed, numbers of examples and nulls, roles: what was declared.
    """

    verdict: str
    findings: list[dict[str, Any]]
    timeline: xr.Dataset
    heads: dict[str, list[str]]
    nulls: dict[str, tuple[float, float]]
    onsets: dict[str, Onset]
    circuit: Circuit
    fewest_edges: int | None
    nodes: xr.Dataset | None
    curve: xr.Dataset | None
    evaluation: xr.Dataset | None
    probes: dict[str, xr.Dataset]
    predictors: dict[str, float]
    settings: dict[str, Any]

    @classmethod
    def load(cls, run: Any) -> Study:
        """The study kept in a Run's folder.

        Raises:
            RunError: If there is none, or one of other weights or another version, or a damaged one.
        """
        return cls(**load_study(run))

    def save(self, run: Any) -> None:
        """Keep it in the Run's folder: `study/*.nc`, then `study.json`, each written whole or not at all."""
        save_study(run, {name: getattr(self, name) for name in self.__dataclass_fields__})

    def __str__(self) -> str:
        return self.verdict


def study(
    run: Any,
    seed: int = 0,
    examples: int = 128,
    untrained: int = 10,
    nulls: int = 100,
    roles: Mapping[str, str] = ROLES,
    progress: bool | Progress = False,
    fresh: bool = False,
) -> Study:
    """Trace a Run, name its heads, date them, find its circuit and judge it on held-out data, with a null for each.

    Heads are chosen on one batch and scored on another; the circuit is found on one set of pairs and judged on
    another. What was measured before is reused; a study of these weights with these settings is only loaded.

    Args:
        run: A Run of a `Transformer`.
        seed: Of all examples and nulls.
        examples: Pairs to find the circuit on, pairs to judge it on, sequences to probe. Timelines take 64 a step.
        untrained: Untrained models for the heads' null.
        nulls: Random circuits.
        roles: Role -> head score that tells it.
        progress: True for bars, or a function called with (what, done, total).
        fresh: Do it all again (except timelines, which know by themselves when they are stale).

    Raises:
        UnsupportedError: If the model is not a `Transformer`.
        RunError: If the Run has no checkpoint.
    """
    settings = {"seed": seed, "examples": examples, "untrained": untrained, "nulls": nulls, "roles": dict(roles)}
    if not fresh and run_key(run, settings) == run_key(run):
        return Study.load(run)
    model, task = run.model(), run.task
    if not isinstance(model, Transformer):
        raise UnsupportedError(f"a study needs a Transformer, not a {type(model).__name__}: use trace and onset")
    with Bars(progress) as show:
        pairs = has_pairs(task, seed)
        line = trace(run, _measures(model, task, pairs), seed, progress=show if show is not None else False)
        tell_null = _counter(show, "untrained models", untrained)
        heads = choose_heads(model, task, seed, examples, untrained, roles, tell_null)
        tell = _stages(show, (3 if pairs else 0) + len(task.latents))
        explained = explain(model, task, seed, examples, nulls, tell) if pairs else Explained(Circuit([]))
        probes = read_latents(model, task, seed, examples, tell)
        tell("")
    made = _story(line, heads, explained, probes, _predictors(task, seed, examples), roles, task.unit)
    made = Study(**made, settings=settings)
    made.save(run)
    return made


def _measures(model: Transformer, task: Task, pairs: bool) -> list[Measure]:
    tokens = model.config.outputs == "logits"
    chosen = [measure("head_scores"), measure("loss"), *(map(measure, ("accuracy", "margin")) if tokens else ())]
    if task.predictors():
        chosen.append(measure("predictor_distance"))
    if pairs:
        chosen += [measure(name) for name in ("edge_effects", "node_effects")]
    return chosen


def _story(
    line: xr.Dataset,
    heads: Heads,
    explained: Explained,
    probes: dict[str, xr.Dataset],
    predictors: dict[str, float],
    roles: Mapping[str, str],
    unit: str,
) -> dict[str, Any]:
    group = line["group"].values[0]
    loss = f"loss on {group}".replace("_", " ")
    onsets = {
        f"{role.replace('_', ' ')} {group[0]}": onset(
            head_of(line["head_scores"].sel(score=roles[role], drop=True), group[0]).drop_vars(
                ["layer", "head"], errors="ignore"
            )
        )
        for role, group in heads.by_role.items()
        if group
    }
    learnt = line["loss"].sel(group=group, drop=True)
    onsets[loss] = onset(learnt, min_jump=LOSS_JUMP * (1.0 if unit == "nats" else abs(float(learnt[0]))))
    seen = line["node_effects"].isel(step=-1) if "node_effects" in line else None
    rows = [
        *findings.loss_rows(line, predictors, unit),
        *findings.theory_rows(line, unit),
        *findings.head_rows(line, heads, roles),
        *findings.onset_rows(onsets),
        *_mirage(line, group),
        *findings.order_rows(line, heads, roles),
        *findings.circuit_rows(explained),
        *findings.node_rows(explained, heads, seen),
        *findings.probe_rows(probes),
    ]
    return {
        "verdict": findings.verdict(explained, onsets, heads, loss),
        "findings": rows,
        "timeline": line,
        "heads": dict(heads.by_role),
        "nulls": dict(heads.nulls),
        "onsets": onsets,
        "circuit": explained.circuit,
        "fewest_edges": explained.fewest_edges,
        "nodes": explained.nodes,
        "curve": explained.curve,
        "evaluation": explained.evaluation,
        "probes": probes,
        "predictors": predictors,
    }


def _mirage(line: xr.Dataset, group: Any) -> list[dict[str, Any]]:
    names = [name for name in ("accuracy", "loss", "margin") if name in line]
    if "accuracy" not in names:
        return []
    jumps = {"loss": LOSS_JUMP, "margin": LOSS_JUMP}
    found = mirage_check({name: line[name].sel(group=group, drop=True) for name in names}, jumps)
    note = "; ".join(f"{name}: {one}" for name, one in found.onsets.items()) + "."
    name = f"{str(group).replace('_', ' ')} on accuracy, loss and margin alike"
    return [findings.row(name, found.verdict, where="all checkpoints", note=note)]


def _predictors(task: Task, seed: int, examples: int) -> dict[str, float]:
    """Loss of each reference predictor over the scored positions of a batch."""
    batch = task.batch(examples, derive_seed(seed, "study", "predictors"))
    losses = {name: task.loss(predict(batch), batch) for name, predict in task.predictors().items()}
    return {name.replace("_", " "): float(loss[batch.scored].mean()) for name, loss in losses.items()}


def _counter(show: Callable[..., None] | None, what: str, total: int) -> Callable[[int], None]:
    return lambda done: show(what, done, total) if show is not None else None


def _stages(show: Callable[..., None] | None, total: int) -> Callable[[str], None]:
    """Called with what comes next: everything before it is done."""
    begun = 0

    def tell(what: str) -> None:
        nonlocal begun
        if show is not None:
            show("interventions and probes", min(begun, total), total)
        begun += 1

    return tell
