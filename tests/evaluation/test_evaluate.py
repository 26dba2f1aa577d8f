"""A circuit's quality on the hand-made model, whose circuit is known, and on scoring functions with known answers."""

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, ConfigError, Graph, Options, Pair, SiteError, UnsupportedError
from mechinterp.discovery import discover
from mechinterp.evaluation import edge_states, evaluate, hypothesis_tests, live_edges, minimality
from mechinterp.evaluation.minimality import judged_minimality
from mechinterp.interventions import Judge, score_circuits, score_runs
from mechinterp.known import known_models
from mechinterp.known.induction import induction_model


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=2)


@pytest.fixture(scope="module")
def zero(made):
    return evaluate(made.model, made.pair(32, seed=2), made.circuit, ablation="zero", nulls=40)


def test_the_true_circuit_is_faithful_and_no_random_one_is(zero):
    assert bool(zero["valid"])
    for name in ("faithfulness", "faithfulness_low", "faithfulness_high"):
        assert float(zero[name]) == pytest.approx(1, abs=1e-9)
    assert int(zero["size"]) == int(zero["live_size"]) == int(zero["live_edges"]) == 7
    # Only the seven true edges live under zero ablation: there is no other circuit of seven, so no null and no p-value.
    assert zero.sizes["null"] == 0
    assert np.isnan(float(zero["null_p_value"])) and np.isnan(float(zero["null_faithfulness_p95"]))
    assert zero.attrs["found"] == "undecided" and "only 0 other circuits" in zero.attrs["found_reason"]


def test_removing_the_circuit_takes_the_behaviour(zero):
    assert float(zero["removal_cost"]) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(zero["m_complement"], zero["m_empty"], atol=1e-9)


def test_every_true_edge_is_needed(made, zero):
    assert zero["edge"].values.tolist() == [str(edge) for edge in made.circuit]
    assert (zero["removal_effect"] > 0.1 * zero["gap"]).all()
    assert (zero["minimality_low"] > 0.1 * zero["gap"]).all()


def test_completeness_is_exact_where_nothing_stands_in_for_a_removed_edge(zero):
    assert zero.sizes["subset"] == 10
    np.testing.assert_allclose(zero["m_circuit_without"], zero["m_full_without"], atol=1e-9)
    np.testing.assert_allclose(zero["incompleteness"], 0, atol=1e-9)
    assert len(set(zero["subset_size"].values)) > 1


@pytest.mark.parametrize(("found", "judged", "said"), [("kl", None, "kl"), ("kl", "kl", None), (None, None, None)])
def test_a_circuit_found_with_another_metric_says_so(made, found, judged, said):
    circuit = Circuit(made.circuit, "split", {} if found is None else {"metric": found})
    result = evaluate(
        made.model, made.pair(8, seed=2), circuit, ablation="zero", metric=judged, nulls=2, subsets=1, untrained=0
    )
    assert result.attrs.get("found_with_metric") == said and result.attrs["metric"] == (judged or "logit_diff")


def test_raw_values_are_the_engines(made, zero):
    pair = made.pair(32, seed=2)
    clean, _ = score_runs(made.model, pair)
    np.testing.assert_allclose(zero["m_full"], clean, atol=1e-9)
    empty = score_circuits(made.model, pair, [Circuit([], "split")], ablation="zero")[0]
    np.testing.assert_allclose(zero["m_empty"], empty, atol=1e-12)
    assert float(zero["gap"]) == pytest.approx(float((clean - empty).mean()))


def test_half_a_circuit_is_unfaithful_and_the_nulls_say_so(made):
    """Dead edges do not save it: padding with inert edges changes neither its live size nor its null."""
    graph = made.model.config.graph("split")
    inert = [edge for edge in graph.edges if edge not in made.circuit][:10]
    half = Circuit([edge for edge in made.circuit if edge.reader.kind != "k"], "split")
    result = evaluate(made.model, made.pair(16, seed=3), half, ablation="zero", nulls=20, subsets=2, untrained=0)
    padded = evaluate(
        made.model, made.pair(16, seed=3), half | Circuit(inert, "split"), ablation="zero", nulls=20, subsets=2
    )
    assert float(result["faithfulness"]) < 0.5
    assert float(padded["faithfulness"]) == pytest.approx(float(result["faithfulness"]), abs=1e-9)
    assert int(padded["live_size"]) == int(result["live_size"]) < int(padded["size"]) == len(half) + 10
    np.testing.assert_allclose(padded["null_faithfulness"], result["null_faithfulness"], atol=1e-12)
    np.testing.assert_allclose(padded["removal_effect"].sel(edge=[str(e) for e in inert]), 0, atol=1e-9)


@pytest.mark.parametrize("corruption", ["successor", "match", "query"])
def test_live_edges_are_those_the_intervention_can_see(made, corruption):
    pair = made.pair(16, seed=1, corruption=corruption)
    seen = made.seen("resample", corruption)
    live = live_edges(made.model, pair, inputs="split")
    assert set(live) == seen.pruned().edges
    assert len(live) == (3 if corruption == "match" else 2)
    assert set(live_edges(made.model, pair, ablation="zero", inputs="split")) == made.circuit.edges


def test_no_gap_no_number(made):
    clean = made.pair(16, seed=1).clean
    result = evaluate(made.model, Pair(clean, clean), made.circuit, nulls=5, subsets=2, untrained=0)
    assert not bool(result["valid"])
    # The gap is rounding, and rounding is no gap however regular it is.
    assert abs(float(result["gap"])) < 1e-12 and int(result["live_edges"]) == 0
    for name in ("faithfulness", "faithfulness_low", "removal_cost", "null_faithfulness_p95", "null_p_value"):
        assert np.isnan(float(result[name]))
    assert np.isnan(result["null_faithfulness"]).all()
    assert np.isfinite(result["m_circuit"]).all()


def test_the_examples_of_the_discovery_are_refused_or_left_out(made):
    pair, fresh = made.pair(16, seed=1), made.pair(8, seed=2)
    found = discover(made.model, pair, inputs="split", k=7)
    few = dict(ablation="zero", nulls=2, subsets=1, untrained=0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    for same in (pair, pair[order], pair[1:], Pair(pair.corrupted, pair.clean), Pair.join([pair, fresh[:1]])):
        with pytest.raises(
            ConfigError, match=r"found on (15|16) of these (15|16|17) examples, which leaves [01]: draw"
        ):
            evaluate(made.model, same, found)
    mixed = evaluate(made.model, Pair.join([pair[3:9], fresh, pair[:2]]), found, **few)
    alone = evaluate(made.model, fresh, found, **few)
    assert (mixed.attrs.pop("left_out"), alone.attrs.pop("left_out")) == (8, 0)
    assert mixed.sizes["example"] == 8 and mixed.identical(alone)
    with pytest.raises(ConfigError, match="3 examples that the circuit was not found on give no interval"):
        evaluate(made.model, Pair.join([pair, fresh[:3]]), found)
    told = hypothesis_tests(made.model, Pair.join([pair, fresh]), found, ablation="zero", nulls=2)
    assert told.attrs["left_out"] == 16


def test_a_circuit_of_an_earlier_version_knows_its_pair_as_a_whole(made):
    pair = made.pair(16, seed=1)
    found = Circuit(made.circuit.edges, "split", {"pair": pair.fingerprint})
    with pytest.raises(ConfigError, match="found on 16 of these 16 examples"):
        evaluate(made.model, pair, found)
    same = evaluate(made.model, pair, found, ablation="zero", nulls=2, subsets=1, allow_same=True, untrained=0)
    assert same.attrs["pair"] == pair.fingerprint
    other = evaluate(made.model, made.pair(16, seed=2), found, ablation="zero", nulls=2, subsets=1, untrained=0)
    assert float(other["faithfulness"]) == pytest.approx(1)


def test_what_cannot_be_judged(made):
    with pytest.raises(SiteError, match="L7"):
        evaluate(made.model, made.pair(8), Circuit(["L7.H0->logits"], "split"))
    with pytest.raises(ConfigError, match="at least four"):
        evaluate(made.model, made.pair(3), made.circuit)
    with pytest.raises(UnsupportedError, match="Linear lists no edges"):
        evaluate(torch.nn.Linear(2, 2), made.pair(8), made.circuit)


def test_an_empty_circuit_recovers_nothing(made):
    result = evaluate(made.model, made.pair(8), Circuit([], "split"), ablation="zero", nulls=3, subsets=1, untrained=0)
    assert float(result["faithfulness"]) == 0 and float(result["removal_cost"]) == 0
    assert result.sizes["edge"] == 0
    np.testing.assert_allclose(result["null_faithfulness"], 0, atol=1e-12)


def test_results_are_the_same_for_the_same_seed(made, zero):
    again = evaluate(made.model, made.pair(32, seed=2), made.circuit, ablation="zero", nulls=40)
    assert again.identical(zero)


@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_equal_circuits_run_once_and_pruning_changes_nothing(made, ablation):
    pair = made.pair(8, seed=4, corruption="match")
    graph = made.model.config.graph("split")
    rng = np.random.default_rng(0)
    circuits = [Circuit((e for e in graph.edges if rng.random() < share), "split") for share in (0.2, 0.4, 0.6, 0.9)]
    ours = Judge(made.model, pair, Options(ablation=ablation, inputs="split")).scores([*circuits, *circuits])
    plain = score_circuits(made.model, pair, circuits, ablation=ablation)
    np.testing.assert_allclose(ours, torch.cat([plain, plain]), atol=1e-9)


COPIES = Circuit(
    ["input->L0.H0.v", "L0.H0->logits", "input->L0.H1.v", "L0.H1->logits", "input->L0.H2.v", "L0.H2->logits"]
)


@pytest.fixture
def copies(rule_judge):
    """A judge of three heads, on four examples that differ in size."""
    sizes = (1.0, 1.1, 0.9, 1.0)
    return lambda rule: rule_judge(Graph(1, 3, mlp=False), rule, sizes, lambda worth, size: worth * size)


def head(number, edges):
    return Circuit([f"input->L0.H{number}.v", f"L0.H{number}->logits"]).edges <= edges


def test_minimality_shows_redundant_copies_that_the_plain_effect_hides(copies):
    judge = copies(lambda edges: 1.0 * (head(0, edges) or head(1, edges)))
    result = judged_minimality(judge, COPIES)
    without = [Circuit(COPIES.edges - {edge}) for edge in COPIES]
    np.testing.assert_array_equal(judge.scores([COPIES]) - judge.scores(without), 0)
    used = [name for name in result["edge"].values if "H2" not in name]
    # Second half: sizes 1.1 and 1.0.
    np.testing.assert_allclose(result["minimality"].sel(edge=used), 1.05)
    idle = [name for name in result["edge"].values if "H2" in name]
    np.testing.assert_array_equal(result["minimality"].sel(edge=idle), 0)
    removed = str(result["minimality_removed"].sel(edge="L0.H0->logits").values)
    assert removed == "input->L0.H1.v; L0.H1->logits"


def test_minimality_shows_one_of_three_copies(copies):
    """No pair of heads shows it, and neither does any single component."""
    judge = copies(lambda edges: 1.0 * any(head(number, edges) for number in range(3)))
    np.testing.assert_allclose(judged_minimality(judge, COPIES)["minimality"], 1.05)


def gate(name, ablation):
    """Minimality on a model with a known circuit, with one inert edge in the circuit; and what the pair can see."""
    known = known_models()[name].build(inert_heads=1)
    pair = known.pair(32, 1)
    graph = known.model.config.graph("split")
    inert = next(edge for edge in graph.edges if edge not in known.circuit and edge.reader.kind == "logits")
    judged = minimality(known.model, pair, known.circuit | Circuit([inert], "split"), ablation=ablation)
    states = edge_states(known.model, pair, ablation=ablation, inputs="split")
    return known, inert, judged["minimality"], states


@pytest.mark.parametrize("name", ["copies", "or", "and", "backup", "suppressor"])
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_minimality_shows_every_true_edge_of_gates_and_backups_that_can_be_seen(name, ablation):
    """An MLP that reads both copies is no rival of either, and a backup lies in a later layer."""
    known, inert, value, states = gate(name, ablation)
    shown = [str(edge) for edge in known.circuit]
    if ablation == "resample":  # queries and keys ask for the same and find the same place in both runs
        asks = [edge for edge in known.circuit if edge.source.layer is None and edge.reader.kind in ("q", "k")]
        assert len(asks) == 4 and not set(map(str, asks)) & set(states["edge"].values[states.values == "live"])
        shown = [str(edge) for edge in known.circuit if edge not in asks]
    assert np.abs(value.sel(edge=shown)).min() > 6
    assert abs(float(value.sel(edge=str(inert)))) < 1e-9


def test_minimality_alone_is_that_of_evaluate():
    made = induction_model()
    pair = made.pair(8)
    alone = minimality(made.model, pair, made.circuit)
    whole = evaluate(made.model, pair, made.circuit, nulls=1, subsets=1)
    for name in alone:
        np.testing.assert_array_equal(alone[name], whole[name])


def test_minimality_is_not_measured_on_copies_of_what_it_chose_on(made):
    pair = made.pair(8, seed=3)
    twice = pair[torch.tensor([0, 0, 1, 1, 2, 3, 4, 5, 6, 7])]  # 1 and 3 copy 0 and 2
    mixed = minimality(made.model, twice, made.circuit, ablation="zero")
    measured = Judge(made.model, twice[torch.tensor([5, 7, 9])], Options(ablation="zero", inputs="split"))
    first = next(iter(made.circuit))
    plain = measured.scores([made.circuit])[0] - measured.scores([Circuit(made.circuit.edges - {first}, "split")])[0]
    assert mixed["minimality_removed"].values[0] == "none"
    assert float(mixed["minimality"][0]) == pytest.approx(plain.mean())
    nothing = minimality(made.model, pair[torch.tensor([0, 0, 1, 1])], made.circuit, ablation="zero")
    assert nothing["minimality"].isnull().all()


def test_minimality_of_an_and_needs_no_subset(copies):
    result = judged_minimality(copies(lambda edges: 1.0 * (head(0, edges) and head(1, edges))), COPIES)
    used = [name for name in result["edge"].values if "H2" not in name]
    np.testing.assert_allclose(result["minimality"].sel(edge=used), 1.05)
    assert set(result["minimality_removed"].values) == {"none"}


@pytest.mark.parametrize("ablation", ["mean", "mean-pos"])
def test_means_are_taken_over_all_examples(made, ablation):
    """More examples than run in one block: a mean over a block would be another reference."""
    pair = made.pair(48, seed=6)
    rest = made.circuit - Circuit(list(made.circuit)[:1], "split")
    ours = Judge(made.model, pair, Options(ablation=ablation, inputs="split")).scores([made.circuit, rest])
    np.testing.assert_allclose(
        ours, score_circuits(made.model, pair, [made.circuit, rest], ablation=ablation), atol=1e-9
    )
    result = evaluate(made.model, pair, made.circuit, ablation=ablation, nulls=2, subsets=1, untrained=0)
    assert float(result["faithfulness"]) == pytest.approx(1, abs=1e-6)


def test_removing_a_circuit_stands_beside_removing_random_ones():
    """A trained model with one path for the answer: removing any part of it costs everything, and the null says so."""
    from mechinterp.claims import load_circuit
    from mechinterp.discovery import discover

    subject = load_circuit("markov").models["two-layer"]
    circuit = discover(subject.final, subject.task.pair(32, 1))
    judged = evaluate(subject.final, subject.task.pair(32, 2), circuit, nulls=20, untrained=0)
    assert float(judged["removal_cost"]) == pytest.approx(1.0, abs=0.01)
    assert judged["null_removal_cost"].shape == (20,)
    assert float(judged["null_removal_cost_p_value"]) > 0.05
    assert float(judged["null_removal_cost_p95"]) > 0.9
