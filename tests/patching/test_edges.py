"""Edge effects: the fast engine against one hooked forward pass per edge, and the exam on known ground truth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.core import Circuit, Options, Pair, SiteError, UnsupportedError
from mechinterp.interventions import (
    Scorer,
    ablated,
    activations,
    record,
    run_edited,
    score_circuits,
    source_values,
    take,
)
from mechinterp.known import induction_model
from mechinterp.patching import patch_edge_pairs, patch_edges, path_patch

HOW = [("denoise", "resample"), *(("noise", ablation) for ablation in ("resample", "zero", "mean", "mean-pos"))]


def plain_edges(model, pair, direction, ablation, metric, inputs):
    """One hooked forward pass per edge, on the forked inputs."""
    graph = model.config.graph(inputs)
    this, other = (pair.clean, pair.corrupted) if direction == "noise" else (pair.corrupted, pair.clean)
    mine, theirs = (source_values(model, activations(model, batch.inputs), graph) for batch in (this, other))
    step = dict(zip(graph.sources, ablated(theirs, ablation, 1) - mine, strict=True))
    _, positions, _ = pair.clean.at_scored()
    outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (pair.clean, pair.corrupted)]
    scorer = Scorer.of(pair, Options(metric=metric), outputs[0])
    rows = []
    for edge in graph.edges:

        def edit(value, edge=edge):
            if value.ndim == 3:
                return value + step[edge.source]
            value = value.clone()
            value[:, :, edge.reader.index] += step[edge.source]
            return value

        name = f"blocks.{graph.n_layers - 1}.hook_resid_post" if edge.reader.kind == "logits" else edge.hook
        value = scorer(take(run_edited(model, this.inputs, {name: edit}), positions))
        rows.append(scorer(outputs[0]) - value if direction == "noise" else value - scorer(outputs[1]))
    return torch.stack(rows).numpy()


@settings(max_examples=40)
@given(
    st.data(),
    st.sampled_from([0, 2]),
    st.sampled_from(["merged", "split"]),
    st.sampled_from(HOW),
    st.sampled_from(["logit_diff", "kl"]),
    st.booleans(),
    st.sampled_from([0.0001, 64.0]),
)
def test_the_engine_equals_the_plain_loop(
    make_model, make_pair, architectures, data, readout, inputs, how, metric, one_scored, budget
):
    config = data.draw(architectures)
    if config["act_fn"] != "solu_ln":
        config = {**config, "readout_layers": readout}
    model = make_model(**config)
    pair = make_pair(one_scored=one_scored, batch=3, seq=7, pad=config["pad_token"])
    direction, ablation = how
    fast = patch_edges(
        model, pair, direction=direction, ablation=ablation, metric=metric, inputs=inputs, budget_mb=budget
    )
    slow = plain_edges(model, pair, direction, ablation, metric, inputs)
    assert list(fast["edge"].values) == [str(edge) for edge in model.config.graph(inputs).edges]
    scale = max(1.0, *(float(np.abs(values).max()) for values in (slow, fast["clean"], fast["corrupted"])))
    np.testing.assert_allclose(fast["effect"].values, slow, rtol=0, atol=1e-9 * scale)


@settings(max_examples=15)
@given(st.data())
def test_noising_an_edge_is_running_the_circuit_without_it(make_model, make_pair, architectures, data):
    """A third road: the circuit runner, for each ablation."""
    config = {**data.draw(architectures), "n_layers": 2}
    model, pair = make_model(**config), make_pair(pad=config["pad_token"])
    graph = model.config.graph()
    whole = Circuit(graph.edges)
    for ablation in ("resample", "mean", "mean-pos", "zero"):
        effect = patch_edges(model, pair, direction="noise", ablation=ablation)
        circuits = [whole - Circuit([edge]) for edge in graph.edges]
        values = score_circuits(model, pair, circuits, ablation=ablation).numpy()
        scale = max(1.0, float(np.abs(effect["clean"].values).max()), float(np.abs(values).max()))
        np.testing.assert_allclose(effect["effect"].values, effect["clean"].values - values, atol=1e-9 * scale)


def test_a_pair_of_equal_runs_has_no_effects(make_model, make_pair):
    clean = make_pair().clean
    assert np.abs(patch_edges(make_model(), Pair(clean, clean))["effect"].values).max() < 1e-12


def test_some_edges_in_the_order_asked(make_model, make_pair):
    model, pair = make_model(), make_pair()
    asked = ["L1.H0->logits", "input->L0.H1.v", "L0.H0->L2.H1.k"]
    some = patch_edges(model, pair, edges=asked)["effect"]
    every = patch_edges(model, pair)["effect"]
    assert list(some["edge"].values) == asked
    np.testing.assert_allclose(some.values, every.sel(edge=asked).values, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("ablation", ["zero", "mean-pos"])
def test_exam_all_seven_true_edges_and_none_other(seed, ablation):
    """Rotated hand-made induction: true edges stand at least ten times above the largest inert one (measured: 1e15)."""
    made = induction_model(inert_heads=2, seed=seed)
    effect = patch_edges(made.model, made.pair(64, seed), direction="noise", ablation=ablation, inputs="split")[
        "effect"
    ].mean("example")
    size = np.abs(effect).to_series()
    true = [str(edge) for edge in made.circuit]
    inert = size.drop(true)
    assert len(true) == 7 and size[true].min() > 1 and inert.max() < 1e-12
    assert set(size.nlargest(7).index) == set(true)


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("corruption", ["successor", "match", "query"])
def test_resampling_sees_only_what_differs(direction, corruption):
    """Positions are equal in both runs: their edges are not identifiable, and `seen` says which are."""
    made = induction_model(seed=1)
    effect = patch_edges(made.model, made.pair(64, 0, corruption), direction=direction, inputs="split")["effect"].mean(
        "example"
    )
    size = np.abs(effect).to_series()
    seen = [str(edge) for edge in made.seen("resample", corruption, direction)]
    assert size[seen].min() > 1 and size.drop(seen).max() < 1e-12
    assert not any(name.startswith("pos") for name in seen)


def test_a_path_with_nothing_between_is_an_edge(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    every = patch_edges(model, pair)["effect"]
    for name in [
        "L0.H1->L1.H0.k",
        "L1.H0->L2.H1.v",
        "L0.mlp->L2.mlp",
        "L2.H0->logits",
        "input->L0.H1.q",
        "L1.mlp->logits",
    ]:
        sender, receiver = name.split("->")
        path = path_patch(model, pair, [sender], [receiver], freeze_mlps=True)["effect"]
        np.testing.assert_allclose(path.values, every.sel(edge=name).values, atol=1e-10)


def test_paths_through_mlps_follow_unless_frozen(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    free = path_patch(model, pair, ["L0.H1"], ["logits"])["effect"].values
    frozen = path_patch(model, pair, ["L0.H1"], ["logits"], freeze_mlps=True)["effect"].values
    assert np.abs(free - frozen).max() > 1e-6


def test_all_paths_at_once_are_the_corrupted_run(make_model, make_pair):
    """From the input to every reader of one layer: nothing of the clean run is left."""
    model, pair = make_model(d_mlp=5, n_layers=1), make_pair()
    readers = [str(reader) for reader in model.config.graph().readers]
    made = path_patch(model, pair, ["input"], readers, freeze_mlps=True)
    np.testing.assert_allclose(made["effect"].values, (made["clean"] - made["corrupted"]).values, atol=1e-9)


def test_pairs_of_edges(make_model, make_pair):
    model, pair = make_model(), make_pair()
    names = ["L0.H1->L1.H0.k", "L0.H1->L1.H0.q", "L1.H0->logits"]
    both = patch_edge_pairs(model, pair, names)["effect"]
    single = patch_edges(model, pair)["effect"].sel(edge=names)
    np.testing.assert_allclose(np.diagonal(both.values).T, single.values, atol=1e-10)
    np.testing.assert_allclose(both.values, both.values.swapaxes(0, 1))
    assert np.abs(both.values[0, 2] - single.values[0] - single.values[2]).max() > 1e-6


def test_bad_arguments_are_one_clear_line(make_model, make_pair):
    model, pair = make_model(), make_pair()
    with pytest.raises(SiteError, match=r"no edge 'L0.H2->L1.H0.q'.*Did you mean"):
        patch_edges(model, pair, edges=["L0.H2->L1.H0.q"])
    with pytest.raises(SiteError, match="no sender 'logits'"):
        path_patch(model, pair, ["logits"], ["L1.H0.q"])
    with pytest.raises(SiteError, match=r"no receiver 'L1.H0'"):
        path_patch(model, pair, ["L0.H0"], ["L1.H0"])
    with pytest.raises(UnsupportedError, match="Linear"):
        patch_edges(torch.nn.Linear(1, 1), pair)
