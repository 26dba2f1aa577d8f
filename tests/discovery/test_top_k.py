import pytest

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


def worth(edges):
    circuit = Circuit(edges)
    total = 1.0 * ("input->logits" in circuit)
    for h in range(3):
        if f"input->L0.H{h}.v" in circuit and f"L0.H{h}->logits" in circuit:
            total += GAIN[f"L0.H{h}->logits"]
    return total


@pytest.fixture
def judge(rule_judge):
    return rule_judge(GRAPH, worth, (-0.1, 0.1, 0.0))


def test_fewest_edges_that_reach_a_share(judge):
    # All is 1 + 6 + 3 - 0.5 = 9.5: 6 is 63%, 9 is 95%, 10 is 105%.
    found, k = top_k({"": judge}, effects(), share=0.6)
    assert (found, k) == (Circuit(["input->L0.H0.v", "L0.H0->logits"]), 2)
    found, k = top_k({"": judge}, effects(), share=0.9)
    assert k == 4 and len(found) == 4 and "input->logits" not in found
    found, k = top_k({"": judge}, effects(), share=1.0)
    assert k == 5 and "input->logits" in found and "L0.H2->logits" not in found


def test_given_k_prunes_what_is_no_path(judge):
    found, k = top_k({"": judge}, effects(), k=3)
    assert k == 3 and found == Circuit(["input->L0.H0.v", "L0.H0->logits"])
    with pytest.raises(ConfigError, match="k is 0 to 13"):
        top_k({"": judge}, effects(), k=14)


def test_without_a_gap_there_is_no_share_of_it(judge, rule_judge):
    with pytest.raises(ConfigError, match="may be zero"):
        swing = rule_judge(GRAPH, worth, (1.0, -1.0, 1.0, -1.0), lambda worth, example: worth * example)
        top_k({"": swing}, effects())
    with pytest.raises(ConfigError, match="not even all of them"):
        top_k({"": judge}, effects(), share=1.2)


def test_a_gap_below_zero_is_reached_downwards(rule_judge):
    worse = {edge: -value for edge, value in effects().items()}
    upside_down = {"": rule_judge(GRAPH, lambda edges: -worth(edges))}
    found, _ = top_k(upside_down, {e: -v for e, v in worse.items()}, share=0.6)
    assert found == Circuit(["input->L0.H0.v", "L0.H0->logits"])


def test_ranking_is_signed_or_absolute_and_breaks_ties_in_order():
    scores = {"L0.H2->logits": -2.0, "L0.H1->logits": 1.0, "L0.H0->logits": 1.0}
    assert [str(edge) for edge in rank_edges(scores)] == ["L0.H0->logits", "L0.H1->logits", "L0.H2->logits"]
    assert str(rank_edges(scores, "absolute")[0]) == "L0.H2->logits"
    with pytest.raises(ConfigError, match="NaN"):
        rank_edges({"L0.H0->logits": float("nan")})
    with pytest.raises(ConfigError, match="Did you mean 'signed'"):
        rank_edges(scores, "sign")


def test_every_corruption_has_to_be_recovered(judge, rule_judge):
    """Under the second one only the smallest head counts: two edges are not enough for it."""

    def other(edges):
        return 1.0 * ({str(edge) for edge in edges} >= {"input->L0.H1.v", "L0.H1->logits"})

    assert top_k({"": judge}, effects(), share=0.6)[1] == 2
    assert top_k({"easy": judge, "hard": rule_judge(GRAPH, other)}, effects(), share=0.6)[1] == 4
