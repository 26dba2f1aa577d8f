"""Head types: the hand-made model's heads are named, the null is the best of many heads, and luck has no type."""

import numpy as np
import pytest
import torch

from mechinterp.attribution import best_head, head_types, heads_of_type
from mechinterp.attribution.head_types import head_entry
from mechinterp.core import UnsupportedError, derive_seed
from mechinterp.core.statistics import false_discovery
from mechinterp.known import induction_model
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, MarkovChains, Recall, Regression

HAND = induction_model(vocab=16, seq_len=12, inert_heads=1, dtype=torch.float64)
TASK = Induction(vocab=16, seq_len=12, segment=4, repeats=2)


def test_the_heads_of_the_hand_made_model_have_their_types():
    types = head_types(HAND.model, TASK, seed=3, untrained=19)
    named = {head for name in ("previous_token", "induction") for head in heads_of_type(types, name)}
    assert named == {str(site) for site in HAND.circuit.components if site.head is not None}
    assert best_head(types, "previous_token").startswith("L0") and best_head(types, "induction").startswith("L1")
    best = types["p_value"].sel(score=["previous_token", "induction"]).min(["layer", "head"])
    assert best.values.tolist() == [0.05, 0.05]


def test_each_head_has_its_p_value_and_what_is_left_of_it_after_looking_at_all():
    # Enough draws for one head of four to stand out: (1 + 1/2 + 1/3 + 1/4) 4 / 181 < 0.05.
    types = head_types(HAND.model, TASK, seed=3, untrained=90)
    alone, looked = (types[name].sel(score="induction") for name in ("single_p_value", "q_value"))
    best = best_head(types, "induction")
    assert head_entry(alone, best) == pytest.approx(1 / (90 * HAND.model.config.n_heads + 1))  # of all of its layer
    assert np.allclose(looked.values.ravel(), false_discovery(alone.values.ravel()))
    assert head_entry(looked, best) <= 0.05 and (looked >= alone).all()


def test_scores_are_those_of_the_measure_and_the_null_is_the_best_head_on_the_same_batch():
    types = head_types(HAND.model, TASK, seed=3, examples=16, untrained=2)
    scores = measure("head_scores", examples=16)
    assert np.array_equal(types["head_score"], scores(HAND.model, TASK, 3).mean("example"))
    for number in range(2):
        untrained = HAND.model.untrained(derive_seed(3, "untrained", number))
        other = scores(untrained, TASK, 3).mean("example")
        assert np.array_equal(types["null"][:, number], other.max(["layer", "head"]))


@pytest.mark.parametrize("task", [MarkovChains(seq_len=24), Recall(seq_len=40, loads=(4, 8))], ids=["markov", "recall"])
def test_an_untrained_model_is_one_of_many(task):
    """The score and its null come from one batch; with two batches, more than half of these had an induction head."""
    preset = ModelConfig(**task.preset().model)
    low = 0
    for seed in range(40):
        types = head_types(Transformer(preset, 1000 + seed), task, seed=seed, examples=16, untrained=19)
        low += float(types["p_value"].sel(score="induction").min()) <= 0.05
    assert low <= 7  # 2 are expected of 40; more than 7 come by luck once in 600 times


def test_heads_below_half_of_the_best_do_not_share_its_type():
    types = head_types(HAND.model, TASK, seed=3)  # no untrained models: the share alone decides
    scores, of_type = types["head_score"].sel(score="induction"), types["of_type"].sel(score="induction")
    assert np.array_equal(of_type, scores > 0.5 * scores.max())
    assert np.isnan(types["p_value"]).all()


def test_a_type_that_a_task_does_not_define_is_refused():
    task = Regression()
    width = task.batch(1).inputs.shape[-1]
    sizes = {"n_layers": 1, "n_heads": 1, "d_model": 8, "n_ctx": task.seq_len, "d_in": width, "d_out": 1}
    config = ModelConfig(**sizes, inputs="vectors", outputs="values")
    types = head_types(Transformer(config), task, seed=0)
    assert types["score"].values.tolist() == ["previous_token"]
    with pytest.raises(UnsupportedError, match="head type 'induction' is undefined here"):
        best_head(types, "induction")
