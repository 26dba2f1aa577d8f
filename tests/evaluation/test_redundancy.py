"""What two components show together: on gates and later heads whose dependence is known, and on rules."""

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, ConfigError, Graph, Pair, component
from mechinterp.evaluation import evaluate, redundancy
from mechinterp.evaluation.redundancy import judged_redundancy
from mechinterp.interventions import score_circuits
from mechinterp.known import known_models

GATES = {"and": "and", "or": "or", "copies": "or", "backup": "backup", "suppressor": "suppression"}
ABLATIONS = ("resample", "zero")


def true_heads(known):
    """Main or first head, then the other."""
    heads = {component(end) for edge in known.circuit for end in (edge.source, edge.reader)}
    return tuple(sorted(head for head in heads if head.head is not None))


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_kind_is_told_and_inert_heads_are_in_no_group(name, ablation, seed):
    known = known_models()[name].build(inert_heads=2, seed=seed)
    found = redundancy(known.model, known.pair(32, seed), ablation=ablation, inputs="split")
    (group,) = found.groups
    assert group.relation == GATES[name]
    first, other = true_heads(known)
    assert group.parts[:2] == (first, other)
    assert [part for part in group.parts[2:] if part.head is not None] == []
    alone = {"and": (16, 16, 16), "or": (0, 0), "backup": (0, 0), "suppression": (8, -8)}[group.relation]
    np.testing.assert_allclose(group.alone, alone, atol=1e-9)
    assert group.effect.value == pytest.approx({"suppressor": 8}.get(name, 16), abs=1e-9)
    relation = found.data["relation"].to_pandas()
    assert relation.equals(relation.T)
    inert = [part for part in relation.index if part not in map(str, group.parts) and ".H" in part]
    assert len(inert) == 2 * known.model.config.n_layers
    assert set(relation.loc[inert].values.ravel()) == {"independent", ""}


def test_the_four_values_are_the_engines():
    known = known_models()["suppressor"].build(inert_heads=1)
    pair, graph = known.pair(16, 1), known.model.config.graph("split")
    main, later = true_heads(known)
    found = redundancy(known.model, pair, inputs="split").data

    def without(*parts):
        edges = (e for e in graph.edges if not {component(e.source), component(e.reader)} & set(parts))
        return Circuit(edges, "split")

    circuits = [without(), without(main), without(later), without(main, later)]
    both, b, a, none = score_circuits(known.model, pair, circuits).mean(1).tolist()
    a_name, b_name = str(main), str(later)
    assert float(found["part_effect"].sel(part=a_name)) == pytest.approx(both - b)
    assert float(found["part_effect_without"].sel(part=a_name, other_part=b_name)) == pytest.approx(a - none)
    assert float(found["interaction"].sel(part=b_name, other_part=a_name)) == pytest.approx(both - a - b + none)


def test_a_backup_is_told_from_a_copy_by_what_it_does_when_it_does_not_see_that_main_is_gone():
    """Cut main from the logits alone, and the backup stays silent: all is lost, of which it makes up all otherwise."""
    known = known_models()["backup"].build(inert_heads=1)
    main, later = map(str, true_heads(known))
    data = redundancy(known.model, known.pair(16), inputs="split").data
    assert float(data["made_up"].sel(part=main, other_part=later)) == pytest.approx(16)
    assert np.isnan(data["made_up"].sel(part=later, other_part=main))
    copies = known_models()["copies"].build(inert_heads=1)
    first, second = map(str, true_heads(copies))
    data = redundancy(copies.model, copies.pair(16), inputs="split").data
    assert np.isnan(data["made_up"].sel(part=first, other_part=second))


HEADS = Circuit([edge for n in range(4) for edge in (f"input->L0.H{n}.v", f"L0.H{n}->logits")])


def works(number, edges):
    return Circuit([f"input->L0.H{number}.v", f"L0.H{number}->logits"]).edges <= edges


@pytest.fixture
def judged(rule_judge):
    sizes = (1.0, 1.1, 0.9, 1.0)
    graph = Graph(1, 4, mlp=False)
    return lambda rule: judged_redundancy(rule_judge(graph, rule, sizes, lambda worth, size: worth * size), HEADS)


def test_three_copies_are_one_group_though_no_pair_shows_it(judged):
    found = judged(lambda edges: 1.0 * any(works(number, edges) for number in (0, 1, 3)))
    assert set(found.data["relation"].values.ravel()) == {"independent", ""}
    (group,) = found.groups
    assert str(group) == "L0.H0, L0.H1 or L0.H3" and group.alone == (0, 0, 0)
    assert group.effect.value == pytest.approx(1)


def test_heads_that_add_up_are_no_group(judged):
    """Three small heads, together above the limit and each below it, beside a large one."""
    found = judged(lambda edges: 0.05 * sum(works(number, edges) for number in range(3)) + works(3, edges))
    assert found.groups == () and float(abs(found.data["interaction"]).max()) < 1e-12


def test_an_interaction_that_the_examples_do_not_show_is_undecided(rule_judge):
    """Four examples, the last of which alone has an interaction, half of the gap on average."""
    judge = rule_judge(
        Graph(1, 4, mlp=False),
        lambda edges: (bool(edges), works(0, edges) or works(1, edges)),
        (0.0, 0.0, 0.0, 2.0),
        lambda worth, size: worth[0] * np.array([1.0, 1.1, 0.9, 1.0]) + worth[1] * size,
    )
    found = judged_redundancy(judge, HEADS)
    assert str(found.data["relation"].sel(part="L0.H0", other_part="L0.H1").values) == "undecided"
    assert found.groups == ()


def test_without_a_gap_nothing_is_said():
    known = known_models()["copies"].build(inert_heads=1)
    clean = known.pair(16).clean
    found = redundancy(known.model, Pair(clean, clean), inputs="split")
    assert set(found.data["relation"].values.ravel()) == {"undecided", ""} and found.groups == ()


def test_a_group_says_what_it_is():
    said = {}
    for name in GATES:
        known = known_models()[name].build(inert_heads=0)
        (group,) = redundancy(known.model, known.pair(8), inputs="split").groups
        said[name] = str(group)
    assert said == {
        "and": "L0.H0, L0.H1 and L0.mlp",
        "or": "L0.H0 or L0.H1",
        "copies": "L0.H0 or L0.H1",
        "backup": "L1.H0 stands by for L0.H0",
        "suppressor": "L1.H0 works against L0.H0",
    }


def test_evaluate_tells_a_stand_in_that_the_circuit_left_out():
    known = known_models()["backup"].build(inert_heads=0)
    main = Circuit(
        [edge for edge in known.circuit if component(edge.reader).layer != 1 and edge.source.layer != 1], "split"
    )
    score = evaluate(known.model, known.pair(16, 3), main, nulls=2, subsets=1, untrained=0)
    assert score["group_text"].values.tolist() == ["L1.H0 stands by for L0.H0"]
    assert score["group_inside"].values.tolist() == [1]
    assert float(score["group_effect"][0]) == pytest.approx(16)


def test_a_circuit_in_another_convention_is_refused():
    known = known_models()["copies"].build(inert_heads=0)
    with pytest.raises(ConfigError):
        redundancy(known.model, known.pair(8), Circuit(["embed->logits"]))
    assert torch.is_grad_enabled()
