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
from mechinterp.discovery.acdc import acdc, edge_order, fitting_threshold
from mechinterp.discovery.greedy import greedy
from mechinterp.discovery.ranking import RANKINGS, score_edges
from mechinterp.discovery.smallest import LIMIT, smallest_circuit
from mechinterp.discovery.top_k import top_k
from mechinterp.interventions import Judge


class SearchSettings(TypedDict, total=False):
    """What a caller set for a search; each method takes some of these."""

    share: float
    k: int
    scores: Scores
    threshold: float
    order: str | Iterable[str | Edge]
    seed: int
    steps: int
    penalty: float
    two_sided: bool
    limit: int


Search: TypeAlias = Callable[[Judge, SearchSettings], tuple[Circuit, dict[str, object]]]
_SHARE = OPTIONS["share"].default


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
    steps: int | None = None,
    penalty: float | None = None,
    two_sided: bool | None = None,
    limit: int | None = None,
    options: Options,
) -> Circuit:
    """Search for the circuit that does the task.

    ====================  ==============================================================================================
    method                the circuit
    ====================  ==============================================================================================
    `top-k`               the edges of largest exact effect (noising, signed), or of largest `scores`
    `exact-both-ways`     the edges of largest exact effect, whatever its sign, noised or denoised: suppressors and what
                          has a stand-in rank high, too
    `eap`, `eap-ig`,      the edges of largest estimated effect (`estimate_edges`)
    `clean-corrupted`
    `information-flow`    the edges over which most of what the logits read flows (`discovery.information_flow`)
    `edge-pruning`        the edges whose learnt gates are widest open (`discovery.pruning`)
    `random`              edges in random order: what any method must beat
    `acdc`                what is left when every edge was tried once from the logits backwards (`discovery.acdc`)
    `greedy`              what is left when the least needed edge was removed again and again (`discovery.greedy`)
    `greedy-swaps`        likewise, with exchanges where no edge can go any more
    `smallest`            the smallest there is, by trying all (`discovery.smallest`): small models only
    ====================  ==============================================================================================

    Args:
        model: The model.
        pair: Clean and corrupted examples. Judge the circuit on another pair (`evaluate` checks).
        method: See the table.
        share: The least share of the gap that the circuit is to recover on this pair, under each of its corruptions;
            0.9 by default.
        k: How many edges it may have at most, instead of a share. Methods that rank take the k first edges and prune
            them to whole paths.
        scores: For `top-k`: a signed score of every edge to rank by, such as what `patch_edges` or `estimate_edges`
            returned for this pair (dimension `edge`, and `example` at most). By default the exact effects are computed.
        threshold: ACDC's tau in the metric's unit; 0.02 by default. Where share or k is given, ACDC runs with falling
            thresholds, halves of the gap and of each other: the largest that reaches the share, or the smallest that
            keeps no more than k edges.
        order: ACDC's order of trials, `backward` by default (see `edge_order`); its result depends on it.
        seed: Of ACDC's `order="shuffle"`, of `edge-pruning` and `random`; 0 by default.
        steps: Points of `eap-ig` (10), updates of `edge-pruning` (300).
        penalty: Of `edge-pruning`, on open gates.
        two_sided: For `greedy` and `greedy-swaps`: whether the circuit is also to do no better than the model, and the
            model without it no better than the corrupted run. Suppressors and backups stay in it then.
        limit: Circuits that `smallest` tries at most.
        options: See `Options`. The published setting of ACDC is `metric="kl"`; KL is undefined for one-hot outputs.

    Returns:
        The circuit; `origin` records all settings, the order, and the examples seen (by the search, and
        by the scores that it was given).
        Under resampling it is pruned to whole paths: a component that nothing feeds puts out what it does in the
        corrupted run, so its edges carry the reference value whether they are in the circuit or not.

    Raises:
        ConfigError: If the method is unknown, a setting belongs to another method, an edge has no score, the metric
            of an example is NaN or infinite, or no circuit reaches the share.
        SiteError: If a score is for an edge that the model does not have.
        UnsupportedError: If the model has no graph of edges.

    Source: Conmy et al. 2023 for ACDC. Differs: decisions are the same, trials run in batches; by default its metric is
    the one that `evaluate` judges by. For the others see the modules named above.
    """
    settings = {
        "share": share, "k": k, "scores": scores, "threshold": threshold, "order": order, "seed": seed, "steps": steps,
        "penalty": penalty, "two_sided": two_sided, "limit": limit,
    }  # fmt: skip
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


def _ranked(method: str) -> Search:
    """The search that takes the first edges of a ranking."""

    def search(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
        k, share, scores = settings.get("k"), settings.get("share", _SHARE), settings.get("scores")
        own = {name: settings.get(name, default) for name, default in RANKINGS[method].settings.items()}
        by_edge = score_every_edge(score_edges(judge, method, **own) if scores is None else scores, judge.graph)
        circuit, size = top_k(judge.by_corruption(), by_edge, k=k, share=share)
        about: dict[str, object] = {"k": size} if k is not None else {"k": size, "share": share}
        if scores is not None:
            known = isinstance(scores, xr.Dataset)
            about["scores"] = scores.attrs.get("method", "of the caller") if known else "of the caller"
        return circuit, about | own

    return search


def _acdc(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
    seed, order = int(settings.get("seed", 0)), settings.get("order", "backward")
    order = order if isinstance(order, str) else edge_order(judge.graph, order)
    about: dict[str, object] = {"order": order if isinstance(order, str) else [str(edge) for edge in order]}
    prunes = judge.options.ablation == "resample"

    def at(threshold: float) -> Circuit:
        circuit = acdc(judge, threshold, order=order, seed=seed)
        return circuit.pruned() if prunes else circuit

    if "k" in settings or "share" in settings:
        threshold, circuit = fitting_threshold(judge, at, settings.get("k"), settings.get("share", _SHARE))
    else:
        threshold = float(settings.get("threshold", 0.02))
        circuit = at(threshold)
    return circuit, {"threshold": threshold, **about, "seed": seed}


def _greedy(swaps: bool) -> Search:
    def search(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
        k, share, two_sided = settings.get("k"), settings.get("share", _SHARE), settings.get("two_sided", False)
        result = greedy(judge.by_corruption(), k=k, share=share, two_sided=two_sided, swaps=swaps)
        about: dict[str, object] = {"share": share} if k is None else {"k": k}
        removed = [str(edge) for edge in result.removed]
        return result.circuit, {**about, "two_sided": two_sided, "removed": removed, "ties": result.ties}

    return search


def _smallest(judge: Judge, settings: SearchSettings) -> tuple[Circuit, dict[str, object]]:
    share, limit = settings.get("share", _SHARE), settings.get("limit", LIMIT)
    result = smallest_circuit(judge.by_corruption(), share=share, limit=limit)
    if result.circuit is None:
        raise ConfigError(
            f"none of {result.tried} circuits recovers {share} of the gap; none of {result.excluded} edges or fewer "
            "does: raise limit, or lower share"
        )
    about: dict[str, object] = {"share": share, "limit": limit, "tried": result.tried, "complete": result.complete}
    return result.circuit, about


@dataclass(frozen=True)
class Method:
    """A way to search.

    Args:
        search: (judge, settings) -> the circuit, and what its origin says.
        settings: Names of the settings that it takes.
    """

    search: Search
    settings: tuple[str, ...]


_BUDGET = ("share", "k")
METHODS: Mapping[str, Method] = {
    "top-k": Method(_ranked("exact"), (*_BUDGET, "scores")),
    **{
        name: Method(_ranked(name), (*_BUDGET, *ranking.settings))
        for name, ranking in RANKINGS.items()
        if name != "exact"
    },
    "acdc": Method(_acdc, ("threshold", *_BUDGET, "order", "seed")),
    "greedy": Method(_greedy(swaps=False), (*_BUDGET, "two_sided")),
    "greedy-swaps": Method(_greedy(swaps=True), (*_BUDGET, "two_sided")),
    "smallest": Method(_smallest, ("share", "limit")),
}


def _method(name: str, settings: SearchSettings) -> Search:
    """The search of a method; refuse a setting that it would ignore."""
    if name not in METHODS:
        raise ConfigError(f"no method '{name}'.{suggest(name, METHODS)}")
    known = METHODS[name].settings
    foreign = [setting for setting in settings if setting not in known]
    if foreign:
        raise ConfigError(f"method='{name}' takes {in_words(known, 'and')}, not {in_words(foreign)}")
    if "threshold" in settings and settings.keys() & set(_BUDGET):
        raise ConfigError("ACDC takes a threshold, or share or k, from which the threshold follows")
    return METHODS[name].search
