"""One score per edge, from whatever form an analysis gave it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import xarray as xr

from mechinterp.core.errors import ConfigError
from mechinterp.core.graph import Graph
from mechinterp.core.sites import Edge

Scores: TypeAlias = Mapping[str, float] | Mapping[Edge, float] | xr.DataArray | xr.Dataset


def edge_scores(scores: Scores) -> dict[Edge, float]:
    """Edge -> score, the mean over examples where there are several.

    Args:
        scores: A mapping from edges (or their text), an array with dimension `edge` (and `example`), or the Dataset
            that `patch_edges` or `estimate_edges` returned (its `effect` is taken).

    Raises:
        ConfigError: If there is no `edge` dimension, or others than `example` beside it.
    """
    if isinstance(scores, Mapping) and not isinstance(scores, xr.Dataset):
        return {Edge.parse(edge): float(score) for edge, score in scores.items()}
    array = scores["effect"] if isinstance(scores, xr.Dataset) and "effect" in scores else scores
    if not isinstance(array, xr.DataArray) or set(array.dims) - {"example"} != {"edge"}:
        dims = list(array.dims) if isinstance(array, xr.DataArray) else "a Dataset without 'effect'"
        raise ConfigError(f"edge scores have dimension 'edge' and at most 'example' beside it, got {dims}")
    means = array.mean("example") if "example" in array.dims else array
    return {Edge.parse(str(edge)): float(value) for edge, value in zip(means["edge"].values, means.values, strict=True)}


def score_every_edge(scores: Scores, graph: Graph) -> dict[Edge, float]:
    """The same, for exactly the edges of a graph in its order.

    Raises:
        ConfigError: If an edge of the graph has no score.
        SiteError: If a score is for an edge that the graph does not have.
    """
    by_edge = {graph.check(edge): score for edge, score in edge_scores(scores).items()}
    missing = [edge for edge in graph.edges if edge not in by_edge]
    if missing:
        raise ConfigError(f"{len(missing)} of {len(graph.edges)} edges have no score (the first: '{missing[0]}')")
    return {edge: by_edge[edge] for edge in graph.edges}
