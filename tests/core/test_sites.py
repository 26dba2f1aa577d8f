import pytest

from mechinterp.core import ConfigError, Edge, Graph, Site, SiteError


def test_edge_counts_match_the_published_sizes():
    # 2 layers, 8 heads, attention only: 24 + 216 + 17 merged; positions add one edge per reader.
    assert len(Graph(2, 8, mlp=False).edges) == 257
    assert len(Graph(2, 8, mlp=False, inputs="split").edges) == 257 + 49
    # GPT-2 small, merged: 12 layers, 12 heads, MLPs (ACDC's repository counts 32,491).
    assert len(Graph(12, 12, mlp=True).edges) == 32_491


def test_rotary_positions_are_no_source():
    graph = Graph(2, 2, mlp=False, positions=False, inputs="split")
    assert [str(site) for site in graph.sources] == ["embed", "L0.H0", "L0.H1", "L1.H0", "L1.H1"]


@pytest.mark.parametrize("text", ["L1.H3.z", "L0.mlp", "L2.resid_post", "embed", "logits", "L0.H2", "L0.attn"])
def test_addresses_survive_a_round_trip(text):
    assert str(Site.parse(text)) == text


def test_a_head_is_its_result():
    assert Site.parse("L0.H2") == Site.parse("L0.H2.result")
    assert Site.parse("L0.mlp_out") == Site.parse("L0.mlp")
    assert Site.parse("L1.H0.k").hook == "blocks.1.attn.hook_k"
    assert Edge.parse("L0.H0->L1.mlp").hook == "blocks.1.hook_mlp_in"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("L1.H0.zz", "no site of kind 'zz'"),
        ("z", "needs a layer"),
        ("", "no site ''"),
        ("L1", "name what to read there"),
        ("L0.H1.mlp", "has no heads"),
        ("L0.logits", "takes no layer"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text, says):
    with pytest.raises(SiteError, match=says):
        Site.parse(text)


def test_an_error_names_the_nearest_site_and_edge():
    graph = Graph(2, 4, mlp=False)
    with pytest.raises(SiteError, match=r"no site 'L2.H0.z': the model has layers 0-1.*Did you mean 'L1.H0.z'"):
        graph.check_site("L2.H0.z")
    with pytest.raises(SiteError, match=r"attention only"):
        graph.check_site("L0.mlp")
    with pytest.raises(SiteError, match=r"Did you mean 'L0.H2->L1.H1.k'|Did you mean .* or 'L0.H2->L1.H1.k'"):
        graph.check("L0.H2->L2.H1.k")
    with pytest.raises(SiteError, match="no edge"):
        graph.check("L1.H0->L0.H0.q")  # backwards
    with pytest.raises(ConfigError, match="no inputs 'both'"):
        Graph(2, 4, mlp=False, inputs="both")  # type: ignore[arg-type]


def test_a_layers_own_mlp_sees_its_heads_and_its_heads_do_not_see_it():
    graph = Graph(1, 1, mlp=True)
    assert {str(edge) for edge in graph.edges} == {
        "input->L0.H0.q", "input->L0.H0.k", "input->L0.H0.v", "input->L0.mlp", "L0.H0->L0.mlp",
        "input->logits", "L0.H0->logits", "L0.mlp->logits",
    }  # fmt: skip


def test_what_heads_share_is_addressed_by_all_of_them():
    graph = Graph(2, 4, mlp=True, shared=2)
    assert Site.parse("L1.H2-3.k") == graph.fork("k", 1, 3) == Site("k", 1, 2, 3)
    assert str(Site("k", 1, 2, 3)) == "L1.H2-3.k" and Site("k", 1, 2, 3).hook == "blocks.1.attn.hook_k"
    assert Site("v", 0, 0, 1).input == Site("v_input", 0, 0, 1) and Site("v", 0, 2, 3).index == 1
    assert [str(site) for site in graph.forks("v", 1)] == ["L1.H0-1.v", "L1.H2-3.v"]
    assert [str(site) for site in graph.forks_of(0, 3)] == ["L0.H3.q", "L0.H2-3.k", "L0.H2-3.v"]
    # Per layer 4 queries, 2 keys, 2 values and an MLP that also sees its layer's 4 heads; 5 sources a layer.
    assert len(graph.edges) == (8 * 1 + 1 * 5) + (8 * 6 + 1 * 10) + 11
    assert graph.check("L0.H1->L1.H2-3.k") == Edge(Site("result", 0, 1), Site("k", 1, 2, 3))
    with pytest.raises(SiteError, match=r"share keys and values 2 by 2.* Did you mean 'L0.H1->L1.H2-3.k'"):
        graph.check("L0.H1->L1.H2.k")
    with pytest.raises(SiteError, match=r"Did you mean 'L1.H2-3.k'"):
        graph.check_site("L1.H3.k")
    with pytest.raises(SiteError, match="heads share only k, v"):
        Site.parse("L1.H2-3.q")
    with pytest.raises(SiteError, match="groups of equal size"):
        Site.parse("L1.H1-2.k")
    with pytest.raises(SiteError, match="no edge"):
        Graph(2, 4, mlp=True).check("L0.H1->L1.H2-3.k")


def test_in_parallel_heads_do_not_feed_their_own_layers_mlp():
    graph = Graph(2, 2, mlp=True, parallel=True)
    assert [str(site) for site in graph.incoming(Site("mlp", 1))] == ["input", "L0.H0", "L0.H1", "L0.mlp"]
    assert len(Graph(2, 2, mlp=True).edges) - len(graph.edges) == 4
    with pytest.raises(SiteError, match="MLPs beside the heads"):
        graph.check("L1.H0->L1.mlp")
