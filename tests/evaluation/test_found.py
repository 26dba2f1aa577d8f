"""`found` says yes for models that do their task by a circuit, and for none that does not."""

from itertools import combinations

import numpy as np
import pytest

from mechinterp.bench.found import permuted
from mechinterp.claims import load_circuit
from mechinterp.core import Circuit, Graph, Pair
from mechinterp.discovery import discover
from mechinterp.evaluation import ability, evaluate, random_circuits, rival_circuits
from mechinterp.evaluation.ability import gap_size
from mechinterp.models import Transformer

NONE = np.zeros(0)


def _judged(model: Transformer, search: Pair, held: Pair, **options):
    return evaluate(model, held, discover(model, search, **options), nulls=199)


@pytest.mark.parametrize(
    ("circuit", "name", "answer", "reason"),
    [
        ("recall", "two-layer", "yes", "0 of 199 random circuits"),
        ("modular", "grokking", "yes", "0 of 199 random circuits"),
        ("markov", "two-layer", "undecided", "only 51 other circuits of its size exist"),
        ("regression", "linear", "undecided", "only 5 other circuits of its size exist"),
    ],
)
def test_a_model_that_does_its_task(circuit, name, answer, reason):
    subject = load_circuit(circuit).models[name]
    result = _judged(subject.final, subject.task.pair(64, 1), subject.task.pair(64, 2))
    assert result.attrs["found"] == answer and reason in result.attrs["found_reason"]


def test_a_model_that_only_memorises_does_not_do_its_task():
    subject = load_circuit("modular").models["no-decay"]
    pair = subject.task.pair(64, 2)
    result = _judged(subject.final, subject.task.pair(64, 1), pair, k=10)
    assert result.attrs["found"] == "no"
    assert (
        "does not do the task: its loss is" in result.attrs["found_reason"]
        and "(uniform)" in result.attrs["found_reason"]
    )


def test_one_layer_and_a_model_of_another_task_are_not_found():
    induction, recall = load_circuit("induction"), load_circuit("recall").models["two-layer"]
    one = induction.models["one-layer"]
    for model in (one.final, recall.final):
        task = one.task
        result = _judged(model, task.pair(64, 1), task.pair(64, 2), k=8)
        assert result.attrs["found"] == "no", result.attrs["found_reason"]


@pytest.mark.parametrize("name", ["recall", "classification"])
def test_an_untrained_model_is_not_found_however_many_the_pairs(name):
    subject = next(iter(load_circuit(name).models.values()))
    for seed in range(3):
        model = Transformer(subject.config, 400 + seed)
        result = _judged(model, subject.task.pair(128, seed), subject.task.pair(128, 50 + seed), k=5)
        assert result.attrs["found"] == "no"


def test_permuted_answers_are_not_found():
    subject = load_circuit("recall").models["two-layer"]
    search, held = (permuted(subject.task.pair(64, seed), seed) for seed in (1, 2))
    assert _judged(subject.final, search, held, k=5).attrs["found"] != "yes"


def test_ability_is_the_share_of_the_way_from_trivial_to_best():
    subject = load_circuit("markov").models["two-layer"]
    pair = subject.task.pair(1024, 2)
    full = ability(subject.final, pair, untrained=NONE)
    assert full.trivial_name == "unigram" and full.best < full.loss < full.trivial
    assert full.share.value == pytest.approx((full.trivial - full.loss) / (full.trivial - full.best))
    assert np.isnan(full.p_value)
    one_layer = ability(load_circuit("markov").models["one-layer"].final, pair, untrained=NONE)
    assert one_layer.share.high < 0.25


def test_a_pair_made_by_hand_is_held_to_the_best_constant_answer():
    subject = load_circuit("recall").models["two-layer"]
    drawn = subject.task.pair(64, 2)
    pair = Pair(drawn.clean, drawn.corrupted)
    able = ability(subject.final, pair, untrained=np.array([9.0, 8.0]))
    counts = np.unique(pair.clean.targets[pair.clean.scored].numpy(), return_counts=True)[1]
    assert able.trivial_name == "constant" and able.best == 0
    # Scored positions are one to an example here, so the mean over examples is the entropy of the answers.
    frequencies = counts / counts.sum()
    assert able.trivial == pytest.approx(-(frequencies * np.log(frequencies)).sum(), rel=1e-6)
    assert able.p_value == pytest.approx(1 / 3)


def test_the_size_of_a_gap_has_a_sign_and_no_unit():
    values = np.array([1.0, 2.0, 3.0])
    assert gap_size(values) == pytest.approx(2.0) == gap_size(1000 * values)
    assert gap_size(-values) == -gap_size(values)
    assert gap_size(np.zeros(3)) == 0


def test_rivals_are_all_other_circuits_of_whole_paths_where_these_are_few():
    graph = Graph(1, 2, mlp=False)
    size = 5
    circuit = random_circuits(graph, size, n=1)[0]
    rivals, exhaustive = rival_circuits(circuit, graph, graph.edges, 10_000)
    every = [Circuit(edges, graph.inputs) for edges in combinations(sorted(graph.edges), size)]
    whole = {one.edges for one in every if one.pruned() == one}
    assert exhaustive and {one.edges for one in rivals} == whole - {circuit.edges}


def test_drawn_rivals_never_contain_the_circuit():
    graph = Graph(2, 4, mlp=False)
    circuit = random_circuits(graph, 3, n=1, seed=3)[0]
    rivals, exhaustive = rival_circuits(circuit, graph, graph.edges, 200)
    assert not exhaustive and 190 < len(rivals) <= 200
    assert not any(circuit.edges <= one.edges for one in rivals)
