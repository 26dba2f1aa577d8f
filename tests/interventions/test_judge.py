"""One judge of circuits: shares, their intervals and their validity agree, and nothing runs twice."""

import math

import numpy as np
import pytest

from mechinterp.core import Circuit, Graph, Options, Pair, SiteError
from mechinterp.core.statistics import gap_between, ratio_of_means
from mechinterp.interventions import Judge, score_circuits
from mechinterp.interventions import judge as module
from mechinterp.known.induction import induction_model
from mechinterp.tasks import Induction


@pytest.fixture(scope="module")
def known():
    return induction_model(inert_heads=2)


@pytest.fixture
def judge(make_model, make_pair):
    """By this metric a random model has a gap too: its answers are its own."""
    return Judge(make_model(), make_pair(batch=12), Options(metric="kl"))


@pytest.fixture
def runs(monkeypatch):
    """Every circuit that the engine runs, call by call."""
    calls = []

    def counted(model, pair, circuits, **options):
        calls.append(list(circuits))
        return score_circuits(model, pair, circuits, **options)

    monkeypatch.setattr(module, "score_circuits", counted)
    return calls


def some(judge, step=2):
    return Circuit(list(judge.graph.edges)[::step])


def test_what_was_asked_for_once_is_not_run_again(judge, runs):
    circuit, other = some(judge), some(judge, 3)
    judge.scores([judge.whole, judge.empty, circuit, other, circuit])
    assert [len(call) for call in runs] == [4]
    assert judge.gap.valid and judge.full.shape == judge.nothing.shape == (12,)
    judge.recovered(circuit)
    judge.recovered_rows(other)
    judge.recovered_shares([circuit, other])
    assert len(runs) == 1
    judge.lost(circuit)
    judge.lost_rows(circuit)
    assert [len(call) for call in runs] == [4, 1]


def test_only_resampling_makes_a_circuit_and_its_pruned_form_equal(make_model, make_pair, runs):
    model, pair = make_model(), make_pair()
    dangling = Circuit(["input->logits", "L1.H0->L2.H1.k"])
    for ablation, size in (("resample", 1), ("mean", 2)):
        runs.clear()
        Judge(model, pair, Options(ablation=ablation)).scores([dangling, dangling.pruned()])
        assert [len(call) for call in runs] == [size]


def test_shares_are_ratios_of_means_with_fiellers_interval(known):
    pair = known.pair(24, seed=2, corruption="match")
    judge = Judge(known.model, pair, Options(ablation="zero", inputs="split"))
    part = Circuit([edge for edge in known.circuit if edge.source.kind != "pos"], "split")
    whole = Circuit(known.model.config.graph("split").edges, "split")
    tried = [whole, Circuit([], "split"), part, whole - part]
    full, empty, own, without = score_circuits(known.model, pair, tried, ablation="zero").double().numpy()
    assert judge.gap == gap_between(full, empty)
    assert judge.recovered(part) == ratio_of_means(own - empty, full - empty)
    assert judge.lost(part) == ratio_of_means(full - without, full - empty)


def test_rows_and_plain_shares_have_the_intervals_value(judge):
    assert judge.gap.valid
    circuits = [some(judge), some(judge, 3), judge.whole, judge.empty]
    shares = zip(circuits, judge.recovered_shares(circuits), judge.lost_shares(circuits), strict=True)
    for circuit, recovered, lost in shares:
        assert judge.recovered(circuit).value == pytest.approx(recovered, abs=1e-12)
        assert judge.lost(circuit).value == pytest.approx(lost, abs=1e-12)
        assert judge.recovered_rows(circuit).mean() == pytest.approx(recovered, abs=1e-12)
        assert judge.lost_rows(circuit).mean() == pytest.approx(lost, abs=1e-12)
    assert judge.recovered(judge.whole).value == 1 and judge.recovered(judge.empty).value == 0
    assert judge.lost(judge.whole).value == 1 and judge.lost(judge.empty).value == 0


def test_where_the_gap_may_be_zero_there_is_no_share_of_any_kind(known):
    """Clean against clean: nothing lies between the whole model and the empty circuit."""
    clean = known.pair(8).clean
    judge = Judge(known.model, Pair(clean, clean))
    circuit = some(judge)
    assert not judge.gap.valid and math.isnan(judge.gap.unit) and not judge.has_gaps
    assert not judge.recovered(circuit).valid and not judge.lost(circuit).valid
    rows = (judge.recovered_rows(circuit), judge.lost_rows(circuit))
    shares = (judge.recovered_shares([circuit]), judge.lost_shares([circuit]))
    assert all(np.isnan(values).all() for values in (*rows, *shares))


def test_a_gap_no_larger_than_rounding_is_none(rule_judge):
    """Its interval leaves out zero, narrowly: a ratio alone would take it for a number."""
    judge = rule_judge(Graph(1, 2, mlp=False), lambda edges: 1e-9 * len(edges), (1.0, 2.0, 3.0))
    circuit = some(judge)
    assert judge.gap.low > 0 and not judge.gap.valid
    assert not judge.recovered(circuit).valid and not judge.lost(circuit).valid
    assert np.isnan(judge.recovered_rows(circuit)).all() and np.isnan(judge.recovered_shares([circuit])).all()


def test_each_corruption_has_a_judge_of_its_own(make_model):
    model = make_model(d_vocab=24, n_ctx=20)
    mixed = Judge(model, Induction(vocab=24, seq_len=20, segment=5, repeats=2).pair(9, 3), Options(metric="log_prob"))
    whole = mixed.full
    parts = mixed.by_corruption()
    assert {name: len(one.pair) for name, one in parts.items()} == {"successor": 5, "match": 4}
    assert all(one.options == mixed.options for one in parts.values())
    np.testing.assert_allclose(np.concatenate([one.full for one in parts.values()]), whole, atol=1e-12)
    alone = parts["match"]
    assert alone.by_corruption() == {"match": alone}


def test_a_gap_is_needed_under_each_corruption(known):
    """The mixture has a gap, all of it from one of its halves."""
    seeing = known.pair(8, corruption="match").with_corruption("match")
    blind = Pair(seeing.clean, seeing.clean).with_corruption("nothing")
    mixed = Judge(known.model, Pair.join([seeing, blind]))
    assert mixed.gap.valid and not mixed.has_gaps
    assert Judge(known.model, seeing).has_gaps


def test_a_judge_measures_what_the_model_puts_out(make_model, make_pair):
    assert Judge(make_model(), make_pair()).options.metric == "logit_diff"
    assert Judge(make_model(outputs="values", d_out=2), make_pair()).options.metric == "mse"


def test_edges_that_the_model_lacks_are_refused(judge):
    assert len(judge.circuit(["input->logits"])) == 1
    with pytest.raises(SiteError, match="L9"):
        judge.circuit(["L9.H0->logits"])
    with pytest.raises(SiteError, match="L9"):
        judge.scores([Circuit(["input->L9.H0.v", "L9.H0->logits"])])
    assert judge.scores([]).shape == (0, 12)
