"""The causal half of a study: where the answer passes, which edges carry it, what probes read, on data kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.core import Circuit, ConfigError, Pair, UnsupportedError, derive_seed
from mechinterp.core.statistics import ratio_of_means
from mechinterp.evaluation import circuit_at, curve, evaluate, fewest_edges
from mechinterp.interventions import score_circuits
from mechinterp.models import Transformer
from mechinterp.patching import patch_edges, patch_nodes
from mechinterp.probes import probe
from mechinterp.tasks import Task

SHARE = 0.9
"""The share of the gap that the circuit must recover on the pairs that it is found on."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What interventions found at one checkpoint.

    Args:
        circuit: The fewest edges, by exact effect, that recover the share; empty where there is no gap to recover.
        fewest_edges: How many were taken, before pruning to whole paths; None where there is no gap to recover.
        nodes: Effects of every head's output by role, on held-out pairs; None for a task without pairs.
        curve: Faithfulness of every number of edges on held-out pairs, ranked on the others.
        evaluation: The circuit on held-out pairs, beside random circuits; with more than one corruption also
            `corruption_faithfulness`, `_low`, `_high` (`corruption`), on held-out pairs of each alone.
    """

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


def metric_of(model: Any) -> str:
    """`logit_diff`, or `mse` for a model that writes values."""
    values = isinstance(model, Transformer) and model.config.outputs == "values"
    return "mse" if values else "logit_diff"


def explain(
    model: Transformer, task: Task, seed: int, examples: int, nulls: int, tell: Callable[[str], None]
) -> Explained:
    """Find the circuit on one set of pairs and judge it on another; pairs of all corruptions, in equal parts.

    It must recover the share under each corruption alone: on the mixture an easy one could pay for a hard one.

    Args:
        model: The model.
        task: Has pairs.
        seed: Of both sets.
        examples: Pairs in each.
        nulls: Random circuits.
        tell: Called with what comes next.
    """
    metric = metric_of(model)
    seen, held = (task.pair(examples, derive_seed(seed, "study", part)) for part in ("seen", "held-out"))
    tell("effects of nodes and edges")
    roles = any(bool((where >= 0).any()) for where in held.clean.roles.values())
    nodes = patch_nodes(model, held, "z", at="role" if roles else "all", metric=metric)
    effects = patch_edges(model, seen, metric=metric)
    tell("circuits of every size")
    reached = [
        fewest_edges(curve(effects, model, part, metric=metric), SHARE) for part in seen.by_corruption().values()
    ]
    shown = curve(effects, model, held, metric=metric)
    if any(number is None for number in reached):
        return Explained(Circuit([]), None, nodes, shown, None)
    k = max(number for number in reached if number is not None)
    circuit = replace(circuit_at(shown, k), origin={"method": "top-k", "k": k, "pair": seen.fingerprint})
    tell("random circuits")
    judged = evaluate(circuit, model, held, metric=metric, nulls=nulls, seed=seed)
    return Explained(circuit, k, nodes, shown, judged.merge(_each(model, task, held, circuit, metric)))


def _each(model: Transformer, task: Task, held: Pair, circuit: Circuit, metric: str) -> xr.Dataset:
    """Faithfulness under each corruption alone; empty for a task with one."""
    if len(task.corruptions) < 2:
        return xr.Dataset()
    whole, empty = Circuit(model.config.graph(circuit.inputs).edges, circuit.inputs), Circuit([], circuit.inputs)
    rows = []
    for part in held.by_corruption().values():
        full, mine, none = score_circuits(model, part, [whole, circuit, empty], metric).double().cpu().numpy()
        found = ratio_of_means(mine - none, full - none)
        rows.append([found.value, found.low, found.high])
    values = np.array(rows)
    names = [f"corruption_faithfulness{end}" for end in ("", "_low", "_high")]
    made = {name: ("corruption", values[:, i]) for i, name in enumerate(names)}
    return xr.Dataset(made, coords={"corruption": list(task.corruptions[: len(rows)])})


def read_latents(
    model: Transformer, task: Task, seed: int, examples: int, tell: Callable[[str], None]
) -> dict[str, xr.Dataset]:
    """Probes of every hidden variable of the task in the residual stream after each layer, with nulls and erasure.

    A latent that this batch cannot tell apart (one value only) is left out.
    """
    found = {}
    for target in task.latents:
        tell(f"probes of {target.replace('_', ' ')}")
        try:
            found[target] = probe(model, task, target, examples=examples, seed=seed, positions=2048)
        except ConfigError:
            continue
    return found
