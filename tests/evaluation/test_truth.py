import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import average_precision_score, roc_auc_score

from mechinterp.core import Circuit, ConfigError, Graph, SiteError
from mechinterp.core.edge_scores import edge_scores, score_every_edge
from mechinterp.evaluation.truth import (
    edge_auroc,
    edge_average_precision,
    group_auroc,
    mib_auroc,
    pessimistic_auc,
    rates,
)

GRAPH = Graph(1, 2, mlp=False)
TRUTH = Circuit(["input->L0.H0.v", "L0.H0->logits"])


def scored(**high):
    return {str(edge): high.get(str(edge).replace("->", "_").replace(".", "_"), 0.0) for edge in GRAPH.edges}


def test_auroc_counts_ties_half():
    scores = {"input->L0.H0.v": 1.0, "L0.H0->logits": 0.0, "L0.H1->logits": 0.0, "input->logits": -1.0}
    # Pairs (true, false): 1 > 0, 1 > -1, 0 = 0 (half), 0 > -1.
    assert edge_auroc(scores, TRUTH) == pytest.approx(3.5 / 4)
    label = [edge in TRUTH for edge in scores]
    assert edge_auroc(scores, TRUTH) == roc_auc_score(label, list(scores.values()))
    # Down the ranking: 1 of 1 true, then the tied two enter together, 2 of 3.
    assert edge_average_precision(scores, TRUTH) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert edge_average_precision(scores, TRUTH) == average_precision_score(label, list(scores.values()))


def test_edges_that_an_exam_cannot_see_are_left_out_on_both_sides():
    scores = {"input->L0.H0.v": 1.0, "L0.H0->logits": -5.0, "L0.H1->logits": 0.0}
    assert edge_auroc(scores, TRUTH) == 0.5
    assert edge_auroc(scores, TRUTH, identifiable=["input->L0.H0.v", "L0.H1->logits"]) == 1.0


def test_a_group_is_found_by_its_best_member():
    scores = {"input->L0.H0.v": 1.0, "L0.H0->logits": -5.0, "L0.H1->logits": 0.0, "input->logits": 3.0}
    pairs = [Circuit(["input->L0.H0.v", "L0.H0->logits"])]
    # One group at 1 against edges at 0 and 3.
    assert group_auroc(scores, pairs) == 0.5
    assert group_auroc(scores, [Circuit([edge]) for edge in pairs[0]]) == edge_auroc(scores, pairs[0])
    with pytest.raises(ConfigError, match="share an edge"):
        group_auroc(scores, [*pairs, Circuit(["L0.H0->logits"])])
    with pytest.raises(ConfigError, match="0 of 4 edges are true"):
        group_auroc(scores, [])


def test_missing_scores_and_one_sided_exams_are_errors():
    with pytest.raises(ConfigError, match="1 edges have no score"):
        edge_auroc({"input->L0.H0.v": 1.0, "input->logits": 1.0}, TRUTH)
    with pytest.raises(ConfigError, match="2 of 2 edges are true"):
        edge_auroc({"input->L0.H0.v": 1.0, "L0.H0->logits": 1.0}, TRUTH)


def test_pessimistic_auc_is_acdcs():
    """The values asserted in ACDC's own code."""
    assert pessimistic_auc([0, 1], [0, 1]) == 0
    assert pessimistic_auc([0, 0.5, 1], [0, 0.5, 1]) == 0.25
    assert pessimistic_auc([0, 0.25, 1], [0, 0.25, 1]) == 0.25 * 0.75
    assert pessimistic_auc([0, 0.25, 0.5, 1], [0, 0.25, 0.5, 1]) == 5 / 16
    assert pessimistic_auc([0, 0.25, 0.75, 1], [0, 0.25, 0.5, 1]) == 4 / 16
    with pytest.raises(ConfigError, match="falls"):
        pessimistic_auc([0, 0.5, 1], [0, 0.7, 0.6])


def test_mib_auroc_has_no_anchor_at_the_origin():
    """Nine edges: ceil(x * 9) is 1 five times and more (to .1), then 2, 5, 9; the path of two comes whole at .2."""
    assert len(GRAPH.edges) == 9
    scores = scored(input_L0_H0_v=2.0, L0_H0_logits=3.0)
    # One edge alone is no path and is pruned: (0, 0) five times over. At .2 both true edges: (0, 1).
    assert mib_auroc(scores, TRUTH, GRAPH) == pytest.approx(1.0)
    # With a false direct wire first, the first points are (1/7, 0): the area from 0 to 1/7 is not counted at all.
    wrong = scores | {"input->logits": 5.0}
    # .2: wire and L0.H0->logits, pruned to the wire (1/7, 0); .5: five edges, wire and path and two of zero score.
    ours, theirs = edge_auroc(wrong, TRUTH), mib_auroc(wrong, TRUTH, GRAPH)
    assert ours == pytest.approx(6 / 7)
    chosen_false = 3 / 7  # the greedy five: the wire, two true edges, and the first two ties in topological order
    expected = (chosen_false - 1 / 7) * 0.5 + (1 - chosen_false)
    assert theirs == pytest.approx(expected)


def test_rates_of_a_found_circuit():
    found = Circuit(["input->L0.H0.v", "L0.H1->logits", "input->logits"])
    result = rates(found, TRUTH, GRAPH.edges)
    assert float(result["tpr"]) == 0.5
    assert float(result["fpr"]) == pytest.approx(2 / 7)
    assert float(result["precision"]) == pytest.approx(1 / 3)
    assert float(result["jaccard"]) == pytest.approx(1 / 4)


def test_scores_come_in_several_forms():
    effect = xr.DataArray(
        [[1.0, 3.0], [0.0, -2.0]], dims=["edge", "example"], coords={"edge": ["input->logits", "L0.H0->logits"]}
    )
    wanted = {"input->logits": 2.0, "L0.H0->logits": -1.0}
    for form in (effect, effect.to_dataset(name="effect"), effect.mean("example"), wanted):
        assert {str(edge): score for edge, score in edge_scores(form).items()} == wanted
    with pytest.raises(ConfigError, match="dimension 'edge'"):
        edge_scores(xr.DataArray(np.zeros(3), dims=["head"]))
    with pytest.raises(ConfigError, match="7 of 9 edges have no score"):
        score_every_edge(wanted, GRAPH)
    with pytest.raises(SiteError, match="L3"):
        score_every_edge({"L3.H0->logits": 1.0}, GRAPH)
