"""`discover`: one door to every method that searches for a circuit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from mechinterp.core import (
    Circuit,
    ConfigError,
    Edge,
    Inputs,
    Metric,
    Pair,
    resolve_metric,
    suggest,
)
from mechinterp.discovery.acdc import acdc, edge_order
from mechinterp.discovery.top_k import top_k
from mechinterp.interventions import Ablation, graph_of, score_circuits
from mechinterp.patching import patch_edges

METHODS = ("acdc", "top-k")


def discover(
    model: Any,
    pair: Pair,
    method: str = "acdc",
    threshold: float | None = None,
    k: int | None = None,
    share: float | None = None,
    metric: str | Metric | None = None,
    ablation: Ablation = "resample",
    inputs: Inputs = "merged",
    order: str | Iterable[str | Edge] | None = None,
    seed: int = 0,
) -> Circuit:
    """Search for the circuit that does the task.

    Args:
        model: The model.
        pair: Clean and corrupted examples. Judge the circuit on another pair (`evaluate` checks).
        method: `acdc` tries every edge once from the logits backwards; `top-k` takes the edges of largest exact
            effect (noising, signed), pruned to whole paths.
        threshold: ACDC's tau in the metric's unit; 0.02 by default.
        k: Number of edges that `top-k` takes before pruning.
        share: For `top-k` without k: the smallest k that reaches this share of the gap on this pair; 0.9 by default.
        metric: By default `kl` (minus KL(model || circuit)) for ACDC on a model with logits, `mse` on one with
            values, and `logit_diff` for `top-k`. For one-hot outputs, where KL is undefined, ask for `mse`.
        ablation: What absent edges carry: `resample`, `mean`, `mean-pos` or `zero`.
        inputs: `merged` or `split` (embedding and positions apart).
        order: ACDC's order of trials, `backward` by default (see `edge_order`); its result depends on it.
        seed: Of `order="shuffle"`.

    Returns:
        The circuit; `origin` records all settings, the order, the pair's fingerprint and the number of examples.
        Under resampling it is pruned to whole paths: a component that nothing feeds puts out what it does in the
        corrupted run, so its edges carry the reference value whether they are in the circuit or not.

    Raises:
        ConfigError: If the method is unknown, or a setting belongs to the other method.
        UnsupportedError: If the model has no graph of edges.

    Source: Conmy et al. 2023 for ACDC. Differs: decisions are the same, trials run in batches.
    """
    settings = {"threshold": threshold, "order": order, "k": k, "share": share}
    _check(method, settings)
    graph = graph_of(model, inputs)
    name = metric if metric is not None else _default_metric(method, model)

    def score(circuits: Sequence[Circuit]) -> Tensor:
        return score_circuits(model, pair, circuits, metric=name, ablation=ablation)

    origin: dict[str, Any] = {
        "method": method,
        "metric": resolve_metric(name)[0],
        "ablation": ablation,
        "pair": pair.fingerprint,
        "examples": len(pair),
    }
    if method == "acdc":
        tau = 0.02 if threshold is None else float(threshold)
        turns = "backward" if order is None else order if isinstance(order, str) else edge_order(graph, order)
        found = acdc(graph, score, tau, turns, seed)
        found = found.pruned() if ablation == "resample" else found
        shown = turns if isinstance(turns, str) else [str(edge) for edge in turns]
        origin |= {"threshold": tau, "order": shown, "seed": seed}
    else:
        found, taken = top_k(
            graph, _effects(model, pair, name, ablation, inputs), score, k, 0.9 if share is None else share
        )
        origin |= {"k": taken} if k is not None else {"k": taken, "share": 0.9 if share is None else share}
    return Circuit(found.edges, inputs, origin)


def _check(method: str, settings: dict[str, Any]) -> None:
    """Refuse a setting that the method would ignore."""
    takes = {"acdc": ("threshold", "order"), "top-k": ("k", "share")}
    if method not in METHODS:
        raise ConfigError(f"no method '{method}'.{suggest(method, METHODS)}")
    foreign = [name for name, value in settings.items() if value is not None and name not in takes[method]]
    if foreign:
        raise ConfigError(f"method='{method}' takes {' and '.join(takes[method])}, not {' or '.join(foreign)}")


def _default_metric(method: str, model: Any) -> str:
    if model.config.outputs == "values":
        return "mse"
    return "kl" if method == "acdc" else "logit_diff"


def _effects(model: Any, pair: Pair, metric: str | Metric, ablation: Ablation, inputs: Inputs) -> dict[Edge, float]:
    """Edge -> mean exact effect of noising it."""
    result = patch_edges(model, pair, direction="noise", ablation=ablation, metric=metric, inputs=inputs)
    means = result["effect"].mean("example")
    return {Edge.parse(str(edge)): float(value) for edge, value in zip(means["edge"].values, means.values, strict=True)}
