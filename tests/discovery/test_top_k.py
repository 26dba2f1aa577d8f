import pytest
import torch

from mechinterp.core import Circuit, ConfigError, Graph, rank_edges
from mechinterp.discovery.top_k import top_k

GRAPH = Graph(1, 3, mlp=False)
GAIN = {"input->logits": 1.0, "L0.H0->logits": 6.0, "L0.H1->logits": 3.0, "L0.H2->logits": -0.5}


def effects():
    """A head works if its value is wired: its v edge is worth what its output is."""
    worth = {f"L0.H{h}": GAIN[f"L0.H{h}->logits"] for h in range(3)}
    found = {}
    for edge in GRAPH.edges:
        head = str(edge.reader).removesuffix(".v")
        found[edge] = GAIN.get(str(edge), worth.get(head, 0.0))
    return found


def score(circuits, noise=0.1):
    def value(circuit):
        total = 1.0 * ("input->logits" in circuit)
        for h in range(3):
            if f"input->L0.H{h}.v" in circuit and f"L0.H{h}->logits" in circuit:
                total += GAIN[f"L0.H{h}->logits"]
        return total

    return torch.tensor([[value(c) - noise, value(c) + noise, value(c)] for c in circuits])


def test_fewest_edges_that_reach_a_share():
    # All is 1 + 6 + 3 - 0.5 = 9.5: 6 is 63%, 9 is 95%, 10 is 105%.
    found, k = top_k(GRAPH, effects(), score, share=0.6)
    assert (found, k) == (Circuit(["input->L0.H0.v", "L0.H0->logits"]), 2)
    found, k = top_k(GRAPH, effects(), score, share=0.9)
    assert k == 4 and len(found) == 4 and "input->logits" not in found
    found, k = top_k(GRAPH, effects(), score, share=1.0)
    assert k == 5 and "input->logits" in found and "L0.H2->logits" not in found


def test_given_k_prunes_what_is_no_path():
    found, k = top_k(GRAPH, effects(), score, k=3)
    assert k == 3 and found == Circuit(["input->L0.H0.v", "L0.H0->logits"])
    with pytest.raises(ConfigError, match="k is 0 to 13"):
        top_k(GRAPH, effects(), score, k=14)


def test_without_a_gap_there_is_no_share_of_it():
    with pytest.raises(ConfigError, match="may be zero"):
        swing = torch.tensor([1.0, -1.0, 1.0, -1.0])
        top_k(GRAPH, effects(), lambda circuits: torch.arange(len(circuits))[:, None] * swing)
    with pytest.raises(ConfigError, match="not even all of them"):
        top_k(GRAPH, effects(), score, share=1.2)


def test_a_gap_below_zero_is_reached_downwards():
    worse = {edge: -value for edge, value in effects().items()}
    found, _ = top_k(GRAPH, {e: -v for e, v in worse.items()}, lambda circuits: -score(circuits), share=0.6)
    assert found == Circuit(["input->L0.H0.v", "L0.H0->logits"])


def test_ranking_is_signed_or_absolute_and_breaks_ties_in_order():
    scores = {"L0.H2->logits": -2.0, "L0.H1->logits": 1.0, "L0.H0->logits": 1.0}
    assert [str(edge) for edge in rank_edges(scores)] == ["L0.H0->logits", "L0.H1->logits", "L0.H2->logits"]
    assert str(rank_edges(scores, "absolute")[0]) == "L0.H2->logits"
    with pytest.raises(ConfigError, match="NaN"):
        rank_edges({"L0.H0->logits": float("nan")})
    with pytest.raises(ConfigError, match="Did you mean 'signed'"):
        rank_edges(scores, "sign")
