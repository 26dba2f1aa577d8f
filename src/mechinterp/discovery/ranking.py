"""A score for every edge, by each method that ranks edges before it takes some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from mechinterp.core import SEEN, ConfigError, derive_seed, example_names, join_names, labelled, suggest
from mechinterp.discovery.information_flow import information_flow
from mechinterp.discovery.pruning import PENALTY, UPDATES, prune_edges
from mechinterp.interventions import Judge
from mechinterp.patching import estimate_edges, patch_edges


@dataclass(frozen=True)
class Ranking:
    """A way to score edges.

    Args:
        score: (judge, *, settings) -> a signed score of every edge, with dimension `edge` and perhaps `example`.
        settings: Names of the settings that it takes, with their defaults.
    """

    score: Callable[..., xr.DataArray]
    settings: Mapping[str, int | float]


def _exact(judge: Judge) -> xr.DataArray:
    return patch_edges(judge.model, judge.pair, options=judge.options.change(direction="noise"))["effect"]


def _both_ways(judge: Judge) -> xr.DataArray:
    """The larger size of the mean effects in both directions: noising misses what has a stand-in, denoising what needs
    a partner. Only resampling can be denoised."""
    ways = ("noise", "denoise") if judge.options.ablation == "resample" else ("noise",)
    effects = [
        patch_edges(judge.model, judge.pair, options=judge.options.change(direction=way))["effect"] for way in ways
    ]
    return xr.concat([abs(one.mean("example")) for one in effects], "way").max("way")


def _estimate(judge: Judge, method: str, **settings: int) -> xr.DataArray:
    return estimate_edges(judge.model, judge.pair, method=method, options=judge.options, **settings)["effect"]


def _flow(judge: Judge) -> xr.DataArray:
    return information_flow(judge.transformer, judge.pair, judge.graph)


def _random(judge: Judge, *, seed: int) -> xr.DataArray:
    rng = np.random.default_rng(derive_seed(seed, "random ranking"))
    names = [str(edge) for edge in judge.graph.edges]
    return labelled(rng.random(len(names)), ["edge"], {"edge": names})


RANKINGS: Mapping[str, Ranking] = {
    "exact": Ranking(_exact, {}),
    "exact-both-ways": Ranking(_both_ways, {}),
    "eap": Ranking(partial(_estimate, method="eap"), {}),
    "eap-ig": Ranking(partial(_estimate, method="eap-ig"), {"steps": 10}),
    "clean-corrupted": Ranking(partial(_estimate, method="clean-corrupted"), {}),
    "edge-pruning": Ranking(prune_edges, {"steps": UPDATES, "penalty": PENALTY, "seed": 0}),
    "information-flow": Ranking(_flow, {}),
    "random": Ranking(_random, {"seed": 0}),
}
"""Name -> ranking. `exact`, the estimates: see `patching`; `random` is what any of them must beat."""


def score_edges(judge: Judge, method: str, **settings: float) -> xr.DataArray:
    """A score of every edge: the higher, the more the edge is needed.

    Args:
        judge: Knows model, pair and options.
        method: One of `RANKINGS`.
        **settings: Of the method, where they are not its defaults.

    Raises:
        ConfigError: If there is no such method.
    """
    if method not in RANKINGS:
        raise ConfigError(f"no ranking '{method}'.{suggest(method, RANKINGS)}")
    ranking = RANKINGS[method]
    scores = ranking.score(judge, **{**ranking.settings, **settings})
    return scores.assign_attrs({"method": method, SEEN: join_names(example_names(judge.pair))})
