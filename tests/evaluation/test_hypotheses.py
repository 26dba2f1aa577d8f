import numpy as np
import pytest
from scipy import stats

from mechinterp.core import Circuit, ConfigError
from mechinterp.core.statistics import binomial_test
from mechinterp.evaluation.hypotheses import equivalence_test, hypothesis_tests, independence_test
from mechinterp.known.induction import induction_model


def test_equivalence_by_hand():
    """Higher on 9 of 10, tolerance 0.1: P(K <= 1 or K >= 9) for Binomial(10, 0.6)."""
    full = np.zeros(10)
    share, p = equivalence_test(np.array([1.0] * 9 + [-1.0]), full, epsilon=0.1)
    assert share == 0.9
    assert p == pytest.approx(stats.binom.cdf(1, 10, 0.6) + stats.binom.sf(8, 10, 0.6))


def test_equivalence_leaves_ties_out_and_keeps_the_null_where_nothing_differs():
    full = np.arange(6.0)
    assert equivalence_test(full, full) == (0.5, 1.0)
    assert equivalence_test(full + np.array([0, 0, 0, 0, 1, -1]), full)[0] == 0.5


def test_equivalence_rejects_at_most_at_its_level_at_the_edge_of_the_null():
    rng = np.random.default_rng(0)
    rejected = [equivalence_test((rng.random(60) < 0.6) - 0.5, np.zeros(60), 0.1)[1] <= 0.05 for _ in range(400)]
    assert np.mean(rejected) <= 0.075


def test_independence_sees_dependence_without_correlation():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    _, related = independence_test(x**2 + 0.1 * rng.normal(size=60), x, 200, seed=0)
    _, free = independence_test(rng.normal(size=60), x, 200, seed=0)
    assert related == pytest.approx(1 / 201)
    assert free > 0.05


def test_independence_holds_its_level_and_a_constant_is_independent_of_everything():
    rng = np.random.default_rng(2)
    p = [independence_test(rng.normal(size=20), rng.normal(size=20), 99, seed=i)[1] for i in range(100)]
    assert 0.0 < np.mean(np.array(p) <= 0.1) < 0.2
    assert independence_test(np.ones(20), rng.normal(size=20), 99)[1] == 1.0


def test_binomial_tests_by_hand():
    assert binomial_test(100, 100, 0.9, "greater") == pytest.approx(0.9**100)
    assert binomial_test(0, 10, 0.9, "less") == pytest.approx(0.1**10)
    assert np.isnan(binomial_test(0, 0, 0.9, "less"))


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=2)


def by_name(result):
    return {
        str(name): str(outcome) for name, outcome in zip(result["test"].values, result["outcome"].values, strict=True)
    }


def test_the_true_circuit_among_all_edges(made):
    """With inert edges allowed among the random ones there is something to beat, and the true circuit beats it.

    Partial necessity is not shown, and cannot be: in a chain any one edge is as necessary as all, and about half of
    the random circuits of seven edges hold one.
    """
    graph = made.model.config.graph("split")
    result = hypothesis_tests(
        made.model, made.pair(24, seed=5), made.circuit, ablation="zero", nulls=40, live=graph.edges, seed=1
    )
    assert by_name(result) == {
        "equivalence": "not against",
        "independence": "not against",
        "minimality": "not against",
        "sufficiency": "for",
        "partial_necessity": "not for",
    }
    assert 0.3 < float(result["statistic"].sel(test="partial_necessity")) < 0.7
    # Each true edge matters more than any inert one added.
    assert (result["edge_p_value"] > 0.9).all() and (result["edge_q_value"] >= result["edge_p_value"]).all()


def test_a_circuit_with_an_inert_edge_is_not_minimal_and_half_a_circuit_not_sufficient(made):
    graph = made.model.config.graph("split")
    true_head = next(str(edge.source) for edge in made.circuit if edge.reader.kind == "logits")
    spare = [e for e in graph.edges if e.reader.kind == "logits" and e.source.layer == 1 and str(e.source) != true_head]
    # A wire that changes nothing, inside a circuit where each added edge changes something.
    half = Circuit([edge for edge in made.circuit if edge.reader.kind != "k"], "split")
    result = hypothesis_tests(
        made.model,
        made.pair(24, seed=5),
        half | Circuit(spare[:1], "split"),
        ablation="zero",
        nulls=40,
        live=[*made.circuit, spare[0]],
    )
    outcome = by_name(result)
    assert outcome["equivalence"] == "against"
    assert outcome["sufficiency"] == "not for"


def test_edges_that_are_zero_by_construction_are_not_judged():
    """Positions are equal in both runs; judged, they would speak against the circuit with p = 7e-50."""
    from mechinterp.claims import load_circuit

    shipped = load_circuit("classification")
    pairs = shipped.task.pair(64, 3)
    split = [name for edge in shipped.circuit for name in _split(str(edge))]
    result = hypothesis_tests(shipped.model, pairs, Circuit(split, "split"))
    states = result["edge_state"].to_series()
    unseen = [name for name in states.index if name.startswith("pos->")]
    assert unseen and set(states[unseen]) == {"invisible"} and set(states.drop(unseen)) == {"live"}
    assert np.isnan(result["edge_p_value"].sel(edge=unseen)).all()
    assert np.isnan(result["edge_q_value"].sel(edge=unseen)).all()
    assert (result["edge_p_value"].sel(edge=states.drop(unseen).index) == 1).all()
    assert by_name(result)["minimality"] == "not against"


def _split(edge):
    return [edge.replace("input", "embed"), edge.replace("input", "pos")] if edge.startswith("input->") else [edge]


def test_an_idle_edge_is_named_and_not_judged(made):
    spare = next(e for e in made.model.config.graph("split").edges if e not in made.circuit and e.reader.kind == "v")
    result = hypothesis_tests(
        made.model, made.pair(24, seed=5), made.circuit | Circuit([spare], "split"), ablation="zero", nulls=20
    )
    assert str(result["edge_state"].sel(edge=str(spare)).values) == "idle"
    assert np.isnan(result["edge_p_value"].sel(edge=str(spare)))
    assert set(result["edge_state"].drop_sel(edge=str(spare)).values) == {"live"}


def test_the_whole_model_has_nothing_to_be_inflated_with(made):
    whole = Circuit(made.model.config.graph("split").edges, "split")
    result = hypothesis_tests(made.model, made.pair(8), whole, ablation="zero", nulls=3, live=made.circuit.edges)
    assert by_name(result)["minimality"] == "not tested"
    assert np.isnan(result["edge_p_value"]).all()


def test_levels_are_checked(made):
    with pytest.raises(ConfigError, match="quantile"):
        hypothesis_tests(made.model, made.pair(8), made.circuit, quantile=1.0)
