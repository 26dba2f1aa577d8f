import numpy as np
import pytest

from mechinterp.core import Circuit, ConfigError, Graph
from mechinterp.evaluation.nulls import inflate, random_circuits

GRAPH = Graph(2, 4, mlp=False)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 30, len(GRAPH.edges)])
def test_random_circuits_are_whole_paths_of_the_size_asked_for(size):
    for circuit in random_circuits(GRAPH, size, n=8, seed=1):
        assert len(circuit) == size
        assert circuit.pruned() == circuit


def test_dead_edges_take_no_part():
    live = [edge for edge in GRAPH.edges if edge.source.kind != "input" or edge.reader.kind == "v"]
    for circuit in random_circuits(GRAPH, 12, live=live, n=20):
        assert circuit.edges <= set(live)
        assert circuit.pruned() == circuit
        assert len(circuit) == 12


def test_without_a_direct_wire_one_edge_cannot_be_a_path_and_the_shortest_path_is_taken():
    live = [edge for edge in GRAPH.edges if str(edge) != "input->logits"]
    sizes = {len(circuit) for circuit in random_circuits(GRAPH, 1, live=live, n=5)}
    assert sizes == {2}


def test_edges_off_every_live_path_do_not_count_towards_the_size():
    live = ["input->L0.H0.v", "L0.H0->logits", "L0.H1->logits"]
    assert random_circuits(GRAPH, 2, live=live, n=1)[0] == Circuit(live[:2])
    with pytest.raises(ConfigError, match="3 edges were asked for, and 2 live edges"):
        random_circuits(GRAPH, 3, live=live)


def test_draws_depend_on_the_seed_and_not_on_how_many():
    few, many = random_circuits(GRAPH, 9, n=2, seed=3), random_circuits(GRAPH, 9, n=5, seed=3)
    assert few == many[:2]
    assert few != random_circuits(GRAPH, 9, n=2, seed=4)
    assert len(set(many)) == 5


def test_uniform_edge_draws_would_mostly_have_no_path():
    """Why the null is built from paths: the reason METRICS gives, in numbers."""
    rng = np.random.default_rng(0)
    edges = list(GRAPH.edges)
    live = [len(Circuit(edges[i] for i in rng.choice(len(edges), 6, replace=False)).pruned()) for _ in range(200)]
    assert np.mean(live) < 3


def test_inflating_adds_a_path_and_stops_at_the_whole_model():
    base = Circuit(["input->L0.H0.v", "L0.H0->logits"])
    bigger = inflate(base, GRAPH, seed=2)
    assert bigger is not None and base.edges < bigger.edges and bigger.pruned() == bigger
    assert inflate(Circuit(GRAPH.edges), GRAPH) is None
