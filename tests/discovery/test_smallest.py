"""The search through all circuits, held against all sets of edges."""

from itertools import combinations

import pytest

from mechinterp.core import Circuit, ConfigError, Graph, Options
from mechinterp.discovery.smallest import smallest_circuit, whole_circuits
from mechinterp.interventions import Judge
from mechinterp.known import induction_model


@pytest.mark.parametrize(
    "graph",
    [
        Graph(2, 1, mlp=False),
        Graph(1, 2, mlp=True),
        Graph(1, 2, mlp=False, shared=2),
        Graph(1, 1, mlp=True, inputs="split"),
        Graph(1, 2, mlp=True, parallel=True),
    ],
    ids=str,
)
def test_whole_circuits_are_all_sets_of_edges_on_paths(graph):
    for size in range(1, 6):
        sets = {
            frozenset(edges)
            for edges in combinations(graph.edges, size)
            if len(Circuit(edges, graph.inputs).pruned()) == size
        }
        listed = [circuit.edges for circuit in whole_circuits(graph, size)]
        assert len(listed) == len(set(listed)) and set(listed) == sets


def test_the_smallest_circuit_of_a_model_made_by_hand():
    made = induction_model(inert_heads=0)
    judge = Judge(made.model, made.pair(16), Options(inputs="split"))
    best = smallest_circuit({"": judge}, share=0.9)
    assert best.complete and best.circuit == made.seen("resample").pruned()
    assert best.excluded == len(best.circuit) - 1
    cut = smallest_circuit({"": judge}, share=0.9, limit=1)
    assert (cut.complete, cut.tried, cut.circuit, cut.excluded) == (False, 1, None, 0)


def test_whole_paths_say_nothing_under_other_ablations():
    made = induction_model(inert_heads=0)
    with pytest.raises(ConfigError, match="only under resampling"):
        smallest_circuit({"": Judge(made.model, made.pair(16), Options(ablation="zero"))})
