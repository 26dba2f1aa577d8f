import pytest
import torch

from mechinterp.core import Batch, Circuit, ConfigError, Pair, ShapeError, SiteError


def batch(scored, **extra):
    scored = torch.tensor(scored, dtype=torch.bool)
    tokens = torch.arange(scored.numel()).reshape(scored.shape)
    return Batch(tokens, tokens + 100, scored, **extra)


def test_packing_keeps_scored_positions_in_order():
    packed, positions, real = batch([[0, 1, 0, 1], [0, 0, 1, 0]]).at_scored()
    assert positions[0].tolist() == [1, 3] and positions[1, 0] == 2
    assert real.tolist() == [[True, True], [True, False]]
    assert packed.targets[0].tolist() == [101, 103] and packed.targets[1, 0] == 106
    assert torch.equal(packed.scored, real)


def test_packing_vectors():
    inputs = torch.arange(12.0).reshape(1, 4, 3)
    packed, _, _ = Batch(inputs, inputs, torch.tensor([[False, True, False, True]])).at_scored()
    assert torch.equal(packed.inputs, inputs[:, [1, 3]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": torch.zeros(2, 3, dtype=torch.long)}, "targets is"),
        ({"scored": torch.ones(2, 4)}, "boolean"),
        ({"roles": {"a": torch.tensor([0, 4])}}, "outside"),
        ({"roles": {"a": torch.tensor([0])}}, "expected"),
        ({"latents": {"a": torch.zeros(2, 5)}}, "latents"),
        ({"inputs": torch.zeros(4)}, "inputs are"),
    ],
)
def test_shapes_are_checked(change, says):
    good = {"inputs": torch.zeros(2, 4), "targets": torch.zeros(2, 4), "scored": torch.ones(2, 4, dtype=torch.bool)}
    with pytest.raises(ShapeError, match=says):
        Batch(**{**good, **change})


def test_a_pair_scores_the_same_positions_somewhere():
    with pytest.raises(ShapeError, match="score different"):
        Pair(batch([[1, 0]]), batch([[0, 1]]))
    with pytest.raises(ShapeError, match="no scored position"):
        Pair(batch([[1, 0], [0, 0]]), batch([[1, 0], [0, 0]]))


def test_selecting_examples_moves_everything_along():
    made = batch([[1, 0], [0, 1], [1, 1]], roles={"a": torch.tensor([0, 1, -1])})
    some = made[torch.tensor([2, 0])]
    assert some.inputs[0, 0] == 4 and some.roles["a"].tolist() == [-1, 0] and len(some) == 2
    with pytest.raises(SiteError, match=r"Did you mean .a.|Allowed: a"):
        made.role("b")


def test_pruning_keeps_only_whole_paths():
    edges = ["input->L0.H0.k", "L0.H0->L1.H1.q", "L1.H1->logits", "L0.H1->L1.H1.k", "input->L1.H0.v"]
    assert [str(edge) for edge in Circuit(edges).pruned()] == ["input->L0.H0.k", "L0.H0->L1.H1.q", "L1.H1->logits"]


def test_set_operations_and_conventions():
    a, b = Circuit(["input->logits", "L0.H0->logits"]), Circuit(["input->logits"])
    assert len(a - b) == 1 and (a & b) == b and a.jaccard(b) == 0.5 and "L0.H0->logits" in a
    assert Circuit.from_dict(a.to_dict()) == a
    with pytest.raises(ConfigError, match="does not fit"):
        Circuit(["embed->logits"])
    with pytest.raises(ConfigError, match="inputs="):
        _ = a | Circuit(["embed->logits"], "split")


def test_parallel_wires_become_ports():
    graph = Circuit(["L0.H0->L1.H1.q", "L0.H0->L1.H1.k"]).to_networkx()
    assert sorted(graph.edges["L0.H0", "L1.H1"]["ports"]) == ["k", "q"]


def test_an_edge_into_a_shared_key_feeds_every_head_that_shares_it():
    live = ["input->L0.H0.v", "L0.H0->L1.H2-3.k", "L1.H3->logits"]
    circuit = Circuit([*live, "input->L1.H0-1.k", "L0.H1->L1.H2-3.v", "input->L1.H2.q"])
    assert sorted(map(str, circuit.pruned())) == sorted(live)
    assert [str(part) for part in circuit.components[1:3]] == ["L0.H0", "L0.H1"]
    graph = circuit.to_networkx()
    assert (
        graph.has_edge("L0.H0", "L1.H2") and graph.has_edge("L0.H0", "L1.H3") and not graph.has_edge("input", "L1.H3")
    )
    assert Circuit.from_dict(circuit.to_dict()) == circuit
