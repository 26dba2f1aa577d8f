"""Edge scores and circuits held against a known circuit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from mechinterp.core import LOGITS, Circuit, ConfigError, Edge, Graph, component, owners, rank_edges
from mechinterp.core.edge_scores import Scores, edge_scores, score_every_edge

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def edge_auroc(scores: Scores, truth: Circuit, identifiable: Iterable[str | Edge] | None = None) -> float:
    """Chance that a true edge scores higher than another edge, ties counting half.

    Args:
        scores: Edge -> score; higher means more surely in the circuit. Take absolute values first if the sign says
            which way an edge works and not whether it does.
        truth: The known circuit.
        identifiable: Edges that this exam can see (their effect is not identically zero under its ablation); others
            are left out on both sides. By default all that have a score.

    Returns:
        Area under the ROC curve, anchored at (0, 0) and (1, 1).

    Raises:
        ConfigError: If the edges left are all true or all false, or a true edge has no score.

    >>> edge_auroc({"input->logits": 3.0, "L0.H0->logits": 1.0}, Circuit(["input->logits"]))
    1.0
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labels(scores, truth, identifiable)))


def group_auroc(scores: Scores, groups: Sequence[Circuit]) -> float:
    """Chance that a true group scores higher than an edge outside all groups, ties counting half.

    For circuits with edges that stand in for each other, such as those of two copies of one head: it is no mistake to
    find one of them only, and a group's score is its best member's.

    Args:
        scores: Edge -> score; higher means more surely in the circuit.
        groups: The known circuit, in groups that share no edge.

    Returns:
        Area under the ROC curve over groups and other edges, anchored at (0, 0) and (1, 1).

    Raises:
        ConfigError: If a true edge has no score, two groups share an edge, or there is no edge outside the groups.

    >>> group_auroc({"L0.H0->logits": 2.0, "L0.H1->logits": 0.0, "L0.H2->logits": 1.0},
    ...             [Circuit(["L0.H0->logits", "L0.H1->logits"])])
    1.0
    """
    from sklearn.metrics import roc_auc_score

    members = [edge for group in groups for edge in group]
    truth = Circuit(members, groups[0].inputs) if groups else Circuit()
    if len(truth) < len(members):
        raise ConfigError("two groups share an edge: an edge stands in for those of one group")
    label, values = _labels(scores, truth, None)
    by_edge = edge_scores(scores)
    best = [max(by_edge[edge] for edge in group) for group in groups]
    outside = values[~label]
    return float(roc_auc_score([1] * len(best) + [0] * len(outside), [*best, *outside]))


def edge_average_precision(scores: Scores, truth: Circuit, identifiable: Iterable[str | Edge] | None = None) -> float:
    """Mean precision over the true edges as they are found from the highest score down; ties enter together.

    Chance is the share of true edges, not one half. Arguments and errors as `edge_auroc`.

    Source: scikit-learn's `average_precision_score`.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_labels(scores, truth, identifiable)))


def mib_auroc(scores: Scores, truth: Circuit, graph: Graph) -> float:
    """MIB's area under the ROC curve, for comparison with its numbers only; use `edge_auroc` otherwise.

    At each of MIB's ten fractions x of the edges, ceil(x |E|) edges are taken greedily from the logits up by absolute
    score, pruned to whole paths, and give one point; the trapezoid joins the points and has no anchor at (0, 0).

    Args:
        scores: A score for every edge of the graph.
        truth: The known circuit.
        graph: The model's edges.

    Raises:
        ConfigError: If an edge of the graph has no score.

    Source: Mueller et al. 2025 (MIB), `evaluate_area_under_roc`.
    """
    by_edge = score_every_edge(scores, graph)
    wrong = len(graph.edges) - len(truth)
    if not len(truth) or not wrong:
        raise ConfigError("an ROC curve needs true and false edges; the known circuit is empty or has every edge")
    rates = []
    for fraction in FRACTIONS:
        chosen = Circuit(_greedy(by_edge, math.ceil(fraction * len(graph.edges))), graph.inputs).pruned()
        hits = len(chosen & truth)
        rates.append(((len(chosen) - hits) / wrong, hits / len(truth)))
    x, y = np.array(rates).T
    return float(np.trapezoid(y, x / x[-1]))


def pessimistic_auc(x: Sequence[float], y: Sequence[float]) -> float:
    """ACDC's area under a step curve that rises only at the right end of each step; for comparison only.

    Args:
        x: False-positive rates.
        y: True-positive rates of the same points; must not fall as x rises.

    Raises:
        ConfigError: If lengths differ or y falls.

    Source: Conmy et al. 2023, `pessimistic_auc` of the ACDC code.

    >>> pessimistic_auc([0, 0.25, 0.5, 1], [0, 0.25, 0.5, 1]) == 5 / 16
    True
    """
    if len(x) != len(y) or not len(x):
        raise ConfigError(f"x has {len(x)} points and y {len(y)}: give as many of each, at least one")
    order = np.lexsort((y, x))
    across, up = np.asarray(x, float)[order], np.asarray(y, float)[order]
    rises = np.diff(up)
    if (rises < 0).any():
        raise ConfigError("the curve falls: true-positive rates must not fall as false-positive rates rise")
    return float(((1 - across)[1:] * rises).sum())


def rates(circuit: Circuit, truth: Circuit, identifiable: Iterable[str | Edge]) -> xr.Dataset:
    """True- and false-positive rate, precision and Jaccard index of a found circuit, over the identifiable edges."""
    pool = frozenset(Edge.parse(edge) for edge in identifiable)
    claimed, true = circuit.edges & pool, truth.edges & pool
    hits = len(claimed & true)

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return xr.Dataset(
        {
            "tpr": share(hits, len(true)),
            "fpr": share(len(claimed) - hits, len(pool) - len(true)),
            "precision": share(hits, len(claimed)),
            "jaccard": share(hits, len(claimed | true)),
        },
        attrs={"edges": len(pool), "true_edges": len(true), "found_edges": len(claimed)},
    )


def _labels(scores: Scores, truth: Circuit, identifiable: Iterable[str | Edge] | None) -> tuple[np.ndarray, np.ndarray]:
    by_edge = edge_scores(scores)
    pool = sorted(by_edge if identifiable is None else {Edge.parse(edge) for edge in identifiable})
    wanted = truth.edges if identifiable is None else truth.edges & set(pool)
    lost = sorted((set(pool) | wanted) - set(by_edge))
    if lost:
        raise ConfigError(f"{len(lost)} edges have no score (the first: '{lost[0]}'): score every edge in question")
    label = np.array([edge in wanted for edge in pool])
    if label.all() or not label.any():
        raise ConfigError(f"{int(label.sum())} of {label.size} edges are true: an ROC curve needs true and false ones")
    return label, np.array([by_edge[edge] for edge in pool])


def _greedy(scores: Mapping[Edge, float], count: int) -> set[Edge]:
    """Best edge into the part that reaches the logits, again and again."""
    chosen: set[Edge] = set()
    reached = {LOGITS}
    ranked = rank_edges(scores, by="absolute")
    while len(chosen) < min(count, len(ranked)):
        edge = next(edge for edge in ranked if edge not in chosen and not reached.isdisjoint(owners(edge.reader)))
        chosen.add(edge)
        reached.add(component(edge.source))
    return chosen
