"""Methods that rank all edges: what each score is, and what the search makes of it."""

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, ConfigError, Options
from mechinterp.discovery import discover
from mechinterp.discovery.ranking import RANKINGS, score_edges
from mechinterp.interventions import Judge, score_circuits, score_gates
from mechinterp.known import induction_model
from mechinterp.patching import estimate_edges, patch_edges


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=1)


def test_gates_of_zero_and_one_are_circuits(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    edges = model.config.graph().edges
    gates = torch.tensor([number % 3 > 0 for number in range(len(edges))], dtype=torch.float64)
    circuit = Circuit([edge for edge, gate in zip(edges, gates, strict=True) if gate])
    for ablation in ("resample", "zero"):
        (expected,) = score_circuits(model, pair, [circuit], ablation=ablation)
        torch.testing.assert_close(score_gates(model, pair, edges, gates, ablation=ablation), expected)


def test_the_gradient_of_open_gates_is_the_first_order_effect(make_model, make_pair):
    model, pair = make_model(n_layers=2), make_pair()
    edges = model.config.graph().edges
    gates = torch.ones(len(edges), dtype=torch.float64, requires_grad=True)
    score_gates(model, pair, edges, gates).sum().backward()
    estimate = estimate_edges(model, pair, method="eap")["effect"].sum("example").values
    np.testing.assert_allclose(gates.grad.numpy(), estimate, atol=1e-9)


def test_every_ranking_scores_every_edge_and_names_itself(made):
    pair = made.pair(8)
    judge = Judge(made.model, pair, Options(inputs="split", ablation="zero"))
    for name in RANKINGS:
        scores = score_edges(judge, name, **({"steps": 5} if name == "edge-pruning" else {}))
        assert list(scores["edge"].values) == [str(edge) for edge in judge.graph.edges], name
        assert np.isfinite(scores.values).all() and scores.attrs["method"] == name
    exact = score_edges(judge, "exact")
    np.testing.assert_array_equal(exact, patch_edges(made.model, pair, inputs="split", ablation="zero")["effect"])
    with pytest.raises(ConfigError, match=r"no ranking 'eapig'\. Did you mean 'eap-ig'"):
        score_edges(judge, "eapig")


@pytest.mark.parametrize("method", ["edge-pruning", "greedy", "greedy-swaps", "acdc"])
def test_the_hand_made_circuit_is_found_exactly(made, method):
    found = discover(made.model, made.pair(16), method=method, ablation="zero", inputs="split", share=0.95)
    assert found == made.circuit and found.origin["method"] == method


def test_flow_is_a_share_of_what_is_read(made):
    judge = Judge(made.model, made.pair(8), Options(inputs="split"))
    flow = score_edges(judge, "information-flow")
    assert float(flow.min()) >= 0 and float(flow.max()) <= 1
    to_logits = [str(edge) for edge in judge.graph.edges if edge.reader.kind == "logits"]
    assert float(flow.sel(edge=to_logits).sum()) == pytest.approx(1)
    # Nothing but the induction head writes what is read at the end; the inert heads' junk is read by no one, and large.
    assert float(flow.sel(edge=str(next(iter(e for e in made.circuit if e.reader.kind == "logits"))))) > 0.1


def test_a_budget_chooses_the_threshold_of_acdc(made):
    pair = made.pair(16)
    options = {"method": "acdc", "ablation": "zero", "inputs": "split"}
    few = discover(made.model, pair, k=7, **options)
    assert few == made.circuit and few.origin["threshold"] > 0
    with pytest.raises(ConfigError, match="no threshold of ACDC leads to at most 2 edges"):
        discover(made.model, pair, k=2, **options)


def test_random_order_needs_more_edges_and_depends_on_the_seed(made):
    pair = made.pair(16)
    one, other = (discover(made.model, pair, method="random", seed=seed, inputs="split") for seed in (0, 1))
    best = discover(made.model, pair, inputs="split")
    assert one != other and min(one.origin["k"], other.origin["k"]) > best.origin["k"]
