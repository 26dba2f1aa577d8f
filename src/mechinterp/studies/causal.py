"""The causal half of a study: where the answer passes, which edges carry it, what probes read, on data kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mechinterp.core import (
    OPTIONS,
    SEEN,
    Circuit,
    ConfigError,
    Options,
    Pair,
    UnsupportedError,
    derive_seed,
    example_names,
    held_out,
    join_names,
)
from mechinterp.discovery import discover
from mechinterp.evaluation import FEWEST, Answer, curve, evaluate
from mechinterp.interventions import Judge
from mechinterp.models import Transformer
from mechinterp.patching import patch_edges, patch_nodes
from mechinterp.probes import probe
from mechinterp.tasks import Task

NO_PAIRS = "no intervention is possible: this task draws no pairs"
SHARE: float = OPTIONS["share"].default
"""The share of the gap that the circuit must recover on the pairs that it is found on."""


@dataclass(frozen=True, eq=False)
class CircuitEvidence:
    """What interventions show of the circuit at one checkpoint.

    Args:
        answer: Whether a circuit is found: `yes`, `no` or `undecided`.
        reason: Why.
        circuit: The fewest edges, by exact effect, that recover the share; empty where there is no gap to recover.
        fewest_edges: Their number before pruning to whole paths; None where there is no gap to recover.
        nodes: Effects of every head's output by role, on held-out pairs; None for a task without pairs.
        curve: Faithfulness of every number of edges on held-out pairs, ranked on the others.
        evaluation: The circuit on held-out pairs, beside random circuits; with more than one corruption also
            `corruption_faithfulness`, `_low`, `_high` (`corruption`), on held-out pairs of each alone.
    """

    answer: Answer
    reason: str
    circuit: Circuit
    fewest_edges: int | None = None
    nodes: xr.Dataset | None = None
    curve: xr.Dataset | None = None
    evaluation: xr.Dataset | None = None


def has_pairs(task: Task, seed: int) -> bool:
    """Whether the task draws pairs."""
    try:
        task.pair(1, seed)
    except UnsupportedError:
        return False
    return True


def node_places(pair: Pair) -> str:
    """Where nodes are patched: by role where the pair has roles, else at all positions together."""
    return "role" if any(bool((where >= 0).any()) for where in pair.clean.roles.values()) else "all"


def circuit_evidence(
    model: Transformer,
    task: Task,
    *,
    seed: int,
    examples: int,
    nulls: int,
    untrained: int,
    stage: Callable[[str], None] = lambda what: None,
) -> CircuitEvidence:
    """Find the circuit on one set of pairs and judge it on another; pairs of all corruptions, in equal parts.

    Pairs of the second set that are in the first, too, as happens in small tasks, are left out.

    It must recover the share under each corruption alone: on the mixture an easy one could pay for a hard one.

    Args:
        model: The model.
        task: Has pairs.
        seed: Of both sets.
        examples: Pairs in each.
        nulls: Random circuits.
        untrained: Untrained models.
        stage: Called at the start of each stage, with its name.
    """
    search, drawn = (task.pair(examples, derive_seed(seed, "study", part)) for part in ("seen", "held-out"))
    try:
        held, left_out = held_out(drawn, {SEEN: join_names(example_names(search))})
    except ConfigError:
        left_out, held = len(drawn), drawn[:0]
    if len(held) < FEWEST:
        reason = f"of {len(drawn)} pairs to judge a circuit on, the search saw {left_out}: too few are left"
        return CircuitEvidence("undecided", reason, Circuit([]))
    stage("effects of nodes and edges")
    nodes = patch_nodes(model, held, site="z", at=node_places(held))
    effects = patch_edges(model, search)
    stage("circuits of every size")
    by_size = curve(model, held, effects)
    gaps = {name: judge.gap for name, judge in Judge(model, search).by_corruption().items()}
    without = [name for name, gap in gaps.items() if not gap.valid]
    if without:
        reason = f"clean and corrupted run do not differ{f' under corruption {without[0]}' if without[0] else ''}"
        return CircuitEvidence("no", reason, Circuit([]), nodes=nodes, curve=by_size)
    circuit = discover(model, search, share=SHARE, scores=effects)
    stage("random circuits and untrained models")
    judged = evaluate(model, held, circuit, nulls=nulls, untrained=untrained, seed=seed)
    answer, reason = judged.attrs["found"], judged.attrs["found_reason"]
    judged = judged.merge(_each(model, held, circuit)).assign_attrs(left_out=left_out)
    return CircuitEvidence(answer, reason, circuit, circuit.origin["k"], nodes, by_size, judged)


def _each(model: Transformer, held: Pair, circuit: Circuit) -> xr.Dataset:
    """Faithfulness under each corruption alone; empty for pairs of one."""
    parts = Judge(model, held, Options(inputs=circuit.inputs)).by_corruption()
    if len(parts) < 2:
        return xr.Dataset()
    shares = [judge.recovered(circuit) for judge in parts.values()]
    ends = {"": "value", "_low": "low", "_high": "high"}
    values = {end: [getattr(share, part) for share in shares] for end, part in ends.items()}
    rows = {f"corruption_faithfulness{end}": ("corruption", np.array(row)) for end, row in values.items()}
    return xr.Dataset(rows, coords={"corruption": list(parts)})


def read_latents(
    model: Transformer, task: Task, seed: int, examples: int, stage: Callable[[str], None]
) -> dict[str, xr.Dataset]:
    """Probes of every hidden variable of the task in the residual stream after each layer, with nulls and erasure.

    A latent that this batch cannot tell apart (one value only) is left out.
    """
    results = {}
    for target in task.latents:
        stage(f"probes of {target.replace('_', ' ')}")
        try:
            results[target] = probe(model, task, target, examples=examples, seed=seed, positions=2048)
        except ConfigError:
            continue
    return results
