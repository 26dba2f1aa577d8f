"""Gates: what one edge shows depends on the direction, and `seen` says so for every exam."""

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, ConfigError
from mechinterp.evaluation import group_auroc
from mechinterp.interventions import score_circuits
from mechinterp.known import gate_model
from mechinterp.known.gates import FACTS
from mechinterp.patching import patch_edge_pairs, patch_edges

GATES = list(FACTS)


def sizes(made, ablation="resample", corruption="both", direction="noise", seed=0):
    """Largest effect of each edge over the examples."""
    pair = made.pair(64, seed, corruption)
    effect = patch_edges(made.model, pair, direction=direction, ablation=ablation, metric=made.metric, inputs="split")[
        "effect"
    ]
    return np.abs(effect).max("example").to_series()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("rotate", [False, True])
def test_the_gate_computes_its_truth_table(gate, rotate):
    made = gate_model(gate, rotate=rotate, inert_heads=2, seed=4)
    tokens = made.pair(8).clean.inputs
    for a in (0, 1):
        for b in (0, 1):
            said = tokens.clone()
            said[(tokens == 1) | (tokens == 2)] = 1 + a
            said[(tokens == 3) | (tokens == 4)] = 3 + b
            answer = {"and": a and b, "or": a or b, "copies": a}[gate]
            logits = made.model(said)[:, -1]
            wanted = torch.tensor([4.0, -4.0] if not answer else [-4.0, 4.0]).double().expand(8, 2)
            torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_patching_sees_what_each_exam_says_and_nothing_else(gate, seed):
    made = gate_model(gate, inert_heads=2, seed=seed)
    assert len(made.circuit) == 9 and len(made.exams) == 5 * len(made.corruptions)
    for (ablation, corruption, direction), seen in made.exams.items():
        size = sizes(made, ablation, corruption, direction, seed)
        names = [str(edge) for edge in seen]
        assert size[names].min() > 1 and size.drop(names).max() < 1e-9, (ablation, corruption, direction)
        assert seen.edges <= made.circuit.edges


def test_an_and_is_seen_by_noising_and_an_or_by_denoising():
    both, either = gate_model("and"), gate_model("or")
    answer = Circuit(["L0.mlp->logits"], "split")
    assert both.seen(direction="denoise") == either.seen(direction="noise") == answer
    assert len(both.seen(direction="noise")) == len(either.seen(direction="denoise")) == 5
    # All of the answer hangs on each, 16 nats of 16.
    for made, direction in [(both, "noise"), (either, "denoise")]:
        size = sizes(made, direction=direction)
        np.testing.assert_allclose(size[[str(edge) for edge in made.seen(direction=direction)]], 16, atol=1e-9)
    # Where one fact alone changes, the other cannot be seen, in whatever direction.
    for made in (both, either):
        assert made.seen(corruption="first", direction="noise") == made.seen(corruption="first", direction="denoise")
        assert len(made.seen(corruption="first")) == 3
    assert len(both.seen("zero")) == 9 and len(either.seen("zero")) == 1


def test_copies_show_together_only():
    made = gate_model("copies", inert_heads=2, seed=1)
    assert {edge for group in made.groups for edge in group} == made.circuit.edges
    assert sorted(len(group) for group in made.groups) == [1, 2, 2, 2, 2]
    pair = made.pair(64, 3)
    names = [str(edge) for group in made.groups for edge in group]
    pairs = patch_edge_pairs(made.model, pair, names, ablation="zero", inputs="split")["effect"].mean("example")
    alone = np.diagonal(pairs.values)
    np.testing.assert_allclose(alone, [16.0 if name == "L0.mlp->logits" else 0.0 for name in names], atol=1e-9)
    for group in made.groups:
        if len(group) == 2:
            first, second = (str(edge) for edge in group)
            # Two heads that see one ninth each report 0.2 together: 0.8 of 16 nats are lost.
            assert float(pairs.sel(edge=first, other_edge=second)) > 12.7
    # And all that is in no group, taken away at once, costs nothing.
    kept = score_circuits(made.model, pair, [made.circuit], ablation="zero")
    torch.testing.assert_close(kept, torch.full((1, 64), 8.0).double(), rtol=0, atol=1e-9)


def test_groups_are_an_exam_of_their_own():
    made = gate_model("copies", inert_heads=2, seed=1)
    whole = Circuit(made.model.config.graph("split").edges, "split")
    cut = [whole - group for group in made.groups]
    lost = 8 - score_circuits(made.model, made.pair(32), cut, ablation="zero").mean(1)
    scores = {str(edge): 0.0 for edge in whole}
    for group, effect in zip(made.groups, lost, strict=True):
        scores |= {str(edge): float(effect) for edge in group}
    assert group_auroc(scores, made.groups) == 1.0
    # Noising edges one by one finds the answer alone, one group of five: 1/5 right, the rest tied.
    single = np.abs(patch_edges(made.model, made.pair(32), inputs="split")["effect"]).mean("example").round(9)
    assert group_auroc(single, made.groups) == pytest.approx(0.2 + 0.8 * 0.5)
    # Denoising finds one group more: the values, and what the heads write, but no query and no key.
    single = (
        np.abs(patch_edges(made.model, made.pair(32), direction="denoise", inputs="split")["effect"])
        .mean("example")
        .round(9)
    )
    assert group_auroc(single, made.groups) == pytest.approx(0.6 + 0.4 * 0.5)


def test_a_pair_differs_in_the_facts_alone():
    for gate in GATES:
        made = gate_model(gate)
        for corruption, (clean, corrupted) in FACTS[gate].items():
            pair = made.pair(32, 1, corruption)
            changed = sum(a != b for a, b in zip(clean, corrupted, strict=True)) // (2 if gate == "copies" else 1)
            assert ((pair.clean.inputs != pair.corrupted.inputs).sum(1) == changed).all()
            for batch in (pair.clean, pair.corrupted):
                assert torch.equal(made.model(batch.inputs)[:, -1].argmax(-1), batch.targets[:, -1])
            at = torch.arange(32)
            said = pair.clean.inputs[at, pair.clean.roles["fact_A"]]
            assert (said == 1 + clean[0]).all()


def test_bad_words():
    with pytest.raises(ConfigError, match="no gate 'xor'"):
        gate_model("xor")
    with pytest.raises(ConfigError, match="seq_len=3"):
        gate_model(seq_len=3)
    made = gate_model()
    with pytest.raises(ConfigError, match="Did you mean 'second'"):
        made.pair(4, corruption="secnd")
    with pytest.raises(ConfigError, match="no corruption 'third'"):
        made.seen("zero", "third")
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        made.seen("meen")
    with pytest.raises(ConfigError, match="direction='denoise' takes ablation='resample', not 'zero'"):
        made.seen("zero", direction="denoise")
