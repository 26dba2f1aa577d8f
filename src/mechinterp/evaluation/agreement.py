"""Do two circuits agree? Heads have no names across seeds, so they are matched by what they do first."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechinterp.core import Circuit, ConfigError, Edge, Site, derive_seed, labelled
from mechinterp.core.statistics import p_value


def match_heads(first: xr.DataArray, second: xr.DataArray) -> xr.Dataset:
    """Pair each head of one model with one of another's, in the same layer, so that their scores differ least.

    Hungarian assignment on the Euclidean distances between score vectors. Scores should be in comparable units (all
    in [0, 1], say); an `example` dimension is averaged.

    Args:
        first: Scores of one model's heads: `layer`, `head`, and one or more other dimensions (`score`, ...).
        second: The same of the other model.

    Returns:
        `match` (layer, head): the head of the second model; `distance` (layer, head): between their score vectors.

    Raises:
        ConfigError: If the two do not have the same dimensions and sizes.

    Source: Kuhn 1955, as `scipy.optimize.linear_sum_assignment`.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _vectors(first), _vectors(second)
    if a.shape != b.shape:
        raise ConfigError(f"scores are [layer, head, score] {list(a.shape)} and {list(b.shape)}: give the same of both")
    match = np.zeros(a.shape[:2], dtype=int)
    distance = np.zeros(a.shape[:2])
    for layer in range(len(a)):
        cost = np.linalg.norm(a[layer][:, None] - b[layer][None], axis=-1)
        rows, columns = linear_sum_assignment(cost)
        match[layer, rows], distance[layer, rows] = columns, cost[rows, columns]
    coords = {"layer": np.arange(a.shape[0]), "head": np.arange(a.shape[1])}
    dims = ("layer", "head")
    return xr.Dataset({"match": labelled(match, dims, coords), "distance": labelled(distance, dims, coords)})


def rename_heads(circuit: Circuit, match: xr.DataArray | np.ndarray) -> Circuit:
    """The circuit with its heads renumbered: head h of layer l becomes `match[l, h]`.

    Raises:
        ConfigError: If the circuit has a head that the matching lacks.
    """
    table = np.asarray(match)

    def renamed(site: Site) -> Site:
        if site.head is None or site.layer is None:
            return site
        if site.layer >= table.shape[0] or site.head >= table.shape[1]:
            raise ConfigError(
                f"the matching is for {table.shape[0]} layers of {table.shape[1]} heads, not for '{site}'"
            )
        if site.last is not None:
            raise ConfigError(f"heads that share keys and values are not matched one by one: '{site}'")
        return Site(site.kind, site.layer, int(table[site.layer, site.head]))

    return Circuit((Edge(renamed(edge.source), renamed(edge.reader)) for edge in circuit), circuit.inputs)


def agreement(
    first: Circuit, second: Circuit, match: xr.DataArray | np.ndarray, nulls: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Jaccard index of two circuits after matching heads, and what random matchings give.

    Args:
        first: A circuit of one model.
        second: A circuit of the other.
        match: From `match_heads(scores of first, scores of second)["match"]`.
        nulls: Random matchings within layers.
        seed: Of the random matchings.

    Returns:
        `jaccard` (heads matched), `jaccard_unmatched` (heads by number), `jaccard_null` (dimension `null`), and
        `p_value`: the share of random matchings, with this one counted among them, that agree as well.
    """
    table = np.asarray(match)
    rng = np.random.default_rng(derive_seed(seed, "head matchings"))
    null = [
        rename_heads(first, np.stack([rng.permutation(table.shape[1]) for _ in table])).jaccard(second)
        for _ in range(nulls)
    ]
    value = rename_heads(first, table).jaccard(second)
    return xr.Dataset(
        {
            "jaccard": value,
            "jaccard_unmatched": first.jaccard(second),
            "jaccard_null": ("null", np.array(null, dtype=float)),
            "p_value": p_value(value, np.array(null, dtype=float)),
        },
        attrs={"seed": seed},
    )


def overlaps(membership: xr.DataArray) -> xr.Dataset:
    """How much the circuit of each checkpoint has in common with the one before and with the last.

    Args:
        membership: Dimensions step, edge: 1 in the circuit, 0 outside, NaN where there is none (the measure `circuit`).

    Returns:
        By `step`: `size`, edges; `with_previous` and `with_last`, Jaccard indices, NaN where there is no circuit;
        `previous_by_chance` and `last_by_chance`, what random sets of as many edges have on average.

    Raises:
        ConfigError: If the dimensions are others.
    """
    if set(membership.dims) != {"step", "edge"}:
        raise ConfigError(f"a circuit over time has dimensions step and edge, got {list(membership.dims)}")
    rows = membership.transpose("step", "edge").values
    known = np.flatnonzero(np.isfinite(rows).all(1))
    values = np.full((5, len(rows)), np.nan)
    for order, place in enumerate(known):
        own = rows[place] > 0.5
        values[0, place] = own.sum()
        for row, other in ((1, known[order - 1] if order else None), (2, known[-1])):
            if other is not None:
                theirs = rows[other] > 0.5
                values[row, place] = _jaccard(int((own & theirs).sum()), int(own.sum()), int(theirs.sum()))
                values[row + 2, place] = _random_jaccard(int(own.sum()), int(theirs.sum()), len(own))
    names = ("size", "with_previous", "with_last", "previous_by_chance", "last_by_chance")
    return xr.Dataset(
        {name: ("step", row) for name, row in zip(names, values, strict=True)}, {"step": membership["step"]}
    )


def _jaccard(common: int, first: int, second: int) -> float:
    """NaN for two empty sets."""
    return common / (first + second - common) if first + second else float("nan")


def _random_jaccard(first: int, second: int, total: int) -> float:
    """The mean Jaccard index of two random sets of these sizes."""
    from scipy import stats

    common = np.arange(max(0, first + second - total), min(first, second) + 1)
    chance = stats.hypergeom.pmf(common, total, first, second)
    return float(np.sum(chance * [_jaccard(int(count), first, second) for count in common]))


def _vectors(scores: xr.DataArray) -> np.ndarray:
    """Scores as `[layer, head, score]`."""
    if not {"layer", "head"} < set(scores.dims) - {"example"}:
        raise ConfigError(f"head scores have dimensions layer, head and a score, got {list(scores.dims)}")
    means = scores.mean("example") if "example" in scores.dims else scores
    values = means.transpose("layer", "head", ...).values
    return values.reshape(*values.shape[:2], -1)
