"""Which edges are meant: some by address, all into a reader, those of a circuit, or the largest of an estimate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import xarray as xr

from mechinterp.core import Circuit, ConfigError, Edge, Graph, Site, rank_edges
from mechinterp.core.edge_scores import edge_scores

EdgeChoice: TypeAlias = str | Edge | Site | Circuit | xr.Dataset | xr.DataArray | Iterable[str | Edge | Site]
"""Edges (`L0.H2->L1.H1.k`), readers (`L1.H1.k`: every edge into it), a circuit, or effects to rank edges by."""


def chosen_edges(graph: Graph, edges: EdgeChoice | None, top: int | None = None) -> tuple[Edge, ...]:
    """The edges that are meant, each once.

    Args:
        graph: The model's edges.
        edges: None for all. A list keeps its order, a set and a circuit stand in the graph's, an estimate by falling
            absolute effect, mean over examples.
        top: Only so many of an estimate.

    Raises:
        SiteError: If the model lacks an edge or a reader.
        ConfigError: If a circuit has the other input convention, or `top` is below 1 or stands without an estimate.
    """
    if isinstance(edges, (xr.Dataset, xr.DataArray)):
        if top is not None and top < 1:
            raise ConfigError(f"top={top}: needs at least 1")
        ranked = rank_edges(edge_scores(edges), by="absolute")[:top]
        return tuple(graph.check(edge) for edge in ranked)
    if top is not None:
        raise ConfigError("top: how many edges of an estimate; give the estimate as edges=")
    if edges is None:
        return graph.edges
    if isinstance(edges, Circuit) and edges.inputs != graph.inputs:
        raise ConfigError(f"the circuit has inputs='{edges.inputs}', the effects inputs='{graph.inputs}'")
    several = [edges] if isinstance(edges, (str, Edge, Site)) else edges
    chosen = dict.fromkeys(edge for one in several for edge in _meant(graph, one))
    if isinstance(edges, (set, frozenset, Circuit)):
        return tuple(edge for edge in graph.edges if edge in chosen)
    return tuple(chosen)


def _meant(graph: Graph, one: str | Edge | Site) -> Iterable[Edge]:
    """An edge, or all edges into a reader."""
    if isinstance(one, Edge) or (isinstance(one, str) and "->" in one):
        return [graph.check(one)]
    reader = graph.check_reader(one)
    return [Edge(source, reader) for source in graph.incoming(reader)]
