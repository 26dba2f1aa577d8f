"""A backup that acts only when its head is gone, and a suppressor: what each exam sees of them."""

import numpy as np
import pytest
import torch

from mechinterp.core import Circuit, ConfigError, component
from mechinterp.interventions import score_circuits
from mechinterp.known import later_head_model
from mechinterp.patching import patch_edges

LATER = ("backup", "suppressor")


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("rotate", [False, True])
def test_the_model_says_what_the_fact_says(later, rotate):
    made = later_head_model(later, rotate=rotate, inert_heads=2, seed=4)
    pair = made.pair(16, 1)
    sure = 4.0 if later == "backup" else 2.0
    for batch, answer in ((pair.clean, [-sure, sure]), (pair.corrupted, [sure, -sure])):
        wanted = torch.tensor(answer).double().expand(16, 2)
        torch.testing.assert_close(made.model(batch.inputs)[:, -1], wanted, rtol=0, atol=1e-12)
        assert torch.equal(made.model(batch.inputs)[:, -1].argmax(-1), batch.targets[:, -1])


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_patching_sees_what_each_exam_says_and_nothing_else(later, seed):
    made = later_head_model(later, inert_heads=2, seed=seed)
    assert len(made.circuit) == (9 if later == "backup" else 8) and len(made.exams) == 5
    for (ablation, corruption, direction), seen in made.exams.items():
        pair = made.pair(64, seed, corruption)
        effect = patch_edges(made.model, pair, direction=direction, ablation=ablation, inputs="split")["effect"]
        size = np.abs(effect).max("example").to_series()
        names = [str(edge) for edge in seen]
        assert size[names].min() > 1 and size.drop(names).max() < 1e-9, (ablation, direction)
        assert seen.edges <= made.circuit.edges


def test_the_backup_makes_good_what_is_lost_with_the_main_head_and_both_together_are_all():
    made = later_head_model("backup", inert_heads=2, seed=1)
    whole = Circuit(made.model.config.graph("split").edges, "split")
    to_logits = [edge for edge in made.circuit if edge.reader.kind == "logits"]
    assert [edge.source.layer for edge in to_logits] == [0, 1]
    main, backup = (
        Circuit([e for e in made.circuit if e.source == edge.source or component(e.reader) == edge.source], "split")
        for edge in to_logits
    )
    cut = [whole - main, whole - backup, whole - (main | backup)]
    lost = 8 - score_circuits(made.model, made.pair(32, 2), cut).mean(1)
    np.testing.assert_allclose(lost, [0, 0, 16], atol=1e-9)


def test_the_metric_rises_when_the_suppressor_is_removed():
    made = later_head_model("suppressor", inert_heads=2, seed=1)
    whole = Circuit(made.model.config.graph("split").edges, "split")
    later = [edge for edge in made.circuit if edge.source.layer == 1]
    values = score_circuits(made.model, made.pair(32, 2), [whole, whole - Circuit(later, "split")]).mean(1)
    np.testing.assert_allclose(values, [4, 12], atol=1e-9)


def test_bad_words():
    with pytest.raises(ConfigError, match="Did you mean 'backup'"):
        later_head_model("back")
    with pytest.raises(ConfigError, match="seq_len=2"):
        later_head_model(seq_len=2)
    with pytest.raises(ConfigError, match="no corruption 'facts'"):
        later_head_model().pair(4, corruption="facts")
