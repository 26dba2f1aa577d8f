"""`discover`: one door to every method that searches for a circuit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypedDict, cast

import numpy as np
import xarray as xr
from torch import nn

from mechinterp.core import (
    OPTIONS,
    SEEN,
    Circuit,
    ConfigError,
    Edge,
    HookedModel,
    Options,
    Pair,
    example_names,
    in_words,
    join_names,
    seen_by,
    suggest,
    takes,
)
from mechinterp.core.edge_scores import Scores, score_every_edge
from mechinterp.core.memo import remembering
from mechinterp.discovery.acdc import acdc, edge_order
from mechinterp.discovery.top_k import top_k
from mechinterp.interventions import Judge
from mechinterp.patching import patch_edges


class SearchSettings(TypedDict, total=False):
    """What a caller set for a search; each method takes some of these."""

    share: float
    k: int
    scores: Scores
    threshold: float
    order: str | Iterable[str | Edge]
    seed: int


Search: TypeAlias = Callable[[Judge, SearchSettings], tuple[Circuit, dict[str, object]]]


@takes("metric", "ablation", "inputs")
def discover(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    method: str = "top-k",
    share: float | None = None,
    k: int | None = None,
    scores: Scores | None = None,
    threshold: float | None = None,
    order: str | Iterable[str | Edge] | None = None,
    seed: int | None = None,
    options: Options,
) -> Circuit:
    """Search for the circuit that does the task.

    Args:
        model: The model.
        pair: Clean and corrupted examples. Judge the circuit on another pair (`evaluate` checks).
        method: `top-k` takes the edges of largest exact effect (noising, signed), pruned to whole paths; `acdc` tries
            every edge once from the logits backwards.
        share: For `top-k` without k: the smallest k that reaches this share of the gap on this pair, under each of
            its corruptions; 0.9 by default.
        k: Number of edges that `top-k` takes before pruning.
        scores: For `top-k`: a signed score of every edge to rank by, such as what `patch_edges` or `estimate_edges`
            returned for this pair (dimension `edge`, and `example` at most). By default the exact effects are computed.
        threshold: ACDC's tau in the metric's unit; 0.02 by default.
        order: ACDC's order of trials, `backward` by default (see `edge_order`); its result depends on it.
        seed: Of ACDC's `order="shuffle"`; 0 by default.
        options: See `Options`. The published setting of ACDC is `metric="kl"`; KL is undefined for one-hot outputs.

    Returns:
        The circuit; `origin` records all settings, the order, and the examples seen (by the search, and
        by the scores that it was given).
        Under resampling it is pruned to whole paths: a component that nothing feeds puts out what it does in the
        corrupted run, so its edges carry the reference value whether they are in the circuit or not.

    Raises:
        ConfigError: If the method is unknown, a setting belongs to another method, an edge has no score, or the metric
            of an example is NaN or infinite.
        SiteError: If a score is for an edge that the model does not have.
        UnsupportedError: If the model has no graph of edges.

    Source: Conmy et al. 2023 for ACDC. Differs: decisions are the same, trials run in batches; by default its metric is
    the one that `evaluate` judges by.
    """
    settings = {"share": share, "k": k, "scores": scores, "threshold": threshold, "order": order, "seed": seed}
    chosen = cast(SearchSettings, {name: value for name, value in settings.items() if value is not None})
    search = _method(method, chosen)
    judge = Judge(model, pair, options)
    unknown = int((~np.isfinite(judge.full) | ~np.isfinite(judge.nothing)).sum())
    if unknown:
        raise ConfigError(f"the {judge.options.metric_name} of {unknown} of {len(pair)} examples is not a number")
    with remembering("runs"):
        circuit, about = search(judge, chosen)
    origin = {
        "method": method,
        **judge.options.attrs("metric", "ablation"),
        "pair": pair.fingerprint,
        "examples": len(pair),
        SEEN: join_names(example_names(pair), seen_by(scores)),
        **about,
    }
    return Circuit(circuit.edges, judge.graph.inputs, origin)


def _acdc(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
    threshold, seed = float(settings.get("threshold", 0.02)), int(settings.get("seed", 0))
    order = settings.get("order", "backward")
    order = order if isinstance(order, str) else edge_order(judge.graph, order)
    circuit = acdc(judge, threshold, order=order, seed=seed)
    shown = order if isinstance(order, str) else [str(edge) for edge in order]
    about = {"threshold": threshold, "order": shown, "seed": seed}
    return (circuit.pruned() if judge.options.ablation == "resample" else circuit), about


def _top_k(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
    k, share, scores = settings.get("k"), settings.get("share", OPTIONS["share"].default), settings.get("scores")
    if scores is None:
        scores = patch_edges(judge.model, judge.pair, options=judge.options.change(direction="noise"))
    circuit, size = top_k(judge.by_corruption(), score_every_edge(scores, judge.graph), k=k, share=share)
    about: dict[str, object] = {"k": size} if k is not None else {"k": size, "share": share}
    if "scores" in settings:
        about["scores"] = (
            scores.attrs.get("method", "of the caller") if isinstance(scores, xr.Dataset) else "of the caller"
        )
    return circuit, about


@dataclass(frozen=True)
class Method:
    """A way to search.

    Args:
        search: (judge, settings) -> the circuit, and what its origin says.
        settings: Names of the settings that it takes.
    """

    search: Search
    settings: tuple[str, ...]


METHODS: Mapping[str, Method] = {
    "top-k": Method(_top_k, ("share", "k", "scores")),
    "acdc": Method(_acdc, ("threshold", "order", "seed")),
}


def _method(name: str, settings: SearchSettings) -> Search:
    """The search of a method; refuse a setting that it would ignore."""
    if name not in METHODS:
        raise ConfigError(f"no method '{name}'.{suggest(name, METHODS)}")
    known = METHODS[name].settings
    foreign = [setting for setting in settings if setting not in known]
    if foreign:
        raise ConfigError(f"method='{name}' takes {in_words(known, 'and')}, not {in_words(foreign)}")
    return METHODS[name].search
