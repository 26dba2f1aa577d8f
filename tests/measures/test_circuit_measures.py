"""Measures of circuits on the hand-made induction model, where the answers are known."""

from functools import cache

import numpy as np
import pytest

from mechinterp.core import Batch, Pair, UnsupportedError, derive_seed, example_names
from mechinterp.known import induction_model
from mechinterp.known.induction import KnownModel
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import ModularAddition, Task


@cache
def made() -> KnownModel:
    return induction_model(seed=3)


class HandMadeInduction(Task):
    """The pairs of the hand-made model, as a task."""

    name = "handmade-induction-test"
    corruptions = ("successor", "match")

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        return self.pair(batch, seed).clean

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        return made().pair(batch, seed, corruption)


def quality(corruption: str, **params) -> dict[str, float]:
    found = measure("circuit_quality", corruption=corruption, examples=16, **params)(made().model, HandMadeInduction())
    return {str(name): float(found.sel(score=name).mean()) for name in found["score"].values}


@pytest.mark.parametrize(("corruption", "size"), [("successor", 2), ("match", 3)])
def test_the_circuit_found_is_all_that_the_corruption_shows(corruption: str, size: int):
    found = quality(corruption, nulls=20)
    assert found["faithfulness"] == pytest.approx(1, abs=1e-9)
    assert found["removal_cost"] == pytest.approx(1, abs=1e-9)
    assert (found["size"], found["live_edges"]) == (size, size)
    # No other edge is alive, so that a random circuit of this size is the circuit.
    assert found["null_p95"] == pytest.approx(1) and found["null_removal_p95"] == pytest.approx(1)


def test_removing_what_the_match_passes_costs_the_whole_gap():
    true = [str(edge) for edge in made().circuit]
    keys = [edge for edge in true if edge.endswith(".k") and edge.startswith("L0")]
    lost = measure("removal", edges=keys, corruption="match", examples=16)(made().model, HandMadeInduction())
    assert np.allclose(lost, 1, atol=1e-9)
    heads = measure("removal", edges=["L1.H*->logits"], each=True, examples=16)(made().model, HandMadeInduction())
    by_edge = heads.mean("example").to_series().to_dict()
    assert {edge: round(value, 9) for edge, value in by_edge.items()} == {edge: float(edge in true) for edge in by_edge}


def test_no_edge_of_that_name():
    with pytest.raises(UnsupportedError, match="no edge fits 'L7"):
        measure("removal", edges=["L7.H*->logits"])(made().model, HandMadeInduction())


class HalfBlind(HandMadeInduction):
    """Under its second corruption clean and corrupted run are one: no model has a gap there."""

    name = "half-blind-induction-test"
    corruptions = ("match", "nothing")

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        pair = made().pair(batch, seed, "match")
        return pair if corruption == "match" else Pair(pair.clean, pair.clean)


def test_a_corruption_without_a_gap_leaves_no_circuit_to_find():
    """Along training one corruption is learnt before another: a trace goes on, with NaN."""
    found = measure("circuit_quality", examples=16, nulls=5)(made().model, HalfBlind())
    assert found.sizes == {"score": 6, "example": 16} and np.isnan(found).all()
    edges = [str(edge).replace("embed->", "input->").replace("pos->", "input->") for edge in made().circuit]
    handed_over = measure("circuit_quality", edges=edges, examples=16, nulls=5)(made().model, HalfBlind())
    assert float(handed_over.sel(score="faithfulness").mean()) == pytest.approx(1, abs=1e-9)


def test_without_random_circuits_their_scores_are_unknown():
    found = quality("match", nulls=0)
    assert np.isnan([found["null_p95"], found["null_removal_p95"]]).all()


def test_pairs_to_judge_on_that_the_search_saw_are_left_out():
    task = ModularAddition(p=7)
    model = Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=8, d_vocab=task.p + 1, n_ctx=3))
    for examples in (16, 64):
        result = measure("circuit_quality", examples=examples, nulls=0)(model, task, 0)
        seed = derive_seed(0, "measure", "circuit_quality")
        names = [example_names(task.pair(examples, derive_seed(seed, use))) for use in ("find", "judge")]
        repeated = sum(name in names[0] for name in names[1])
        assert result.attrs["left_out"] == repeated > 0 and result.sizes["example"] == examples - repeated
    # A circuit that is given was not searched for: nothing is left out.
    given = measure("circuit_quality", examples=16, nulls=0, edges=["input->logits"])(model, task, 0)
    assert given.attrs["left_out"] == 0 and given.sizes["example"] == 16
