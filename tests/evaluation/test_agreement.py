import numpy as np
import pytest
import xarray as xr

from mechinterp.core import Circuit, ConfigError
from mechinterp.evaluation.agreement import agreement, match_heads, rename_heads


def head_scores(values):
    return xr.DataArray(np.array(values, float), dims=["layer", "head", "score"])


FIRST = head_scores([[[0.9, 0.0], [0.1, 0.0], [0.1, 0.1]], [[0.0, 0.1], [0.0, 0.2], [0.0, 0.8]]])
SECOND = head_scores([[[0.12, 0.1], [0.8, 0.0], [0.1, 0.0]], [[0.0, 0.9], [0.0, 0.1], [0.0, 0.2]]])


def test_heads_are_matched_by_what_they_do():
    result = match_heads(FIRST, SECOND)
    assert result["match"].values.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert result["distance"].values[0, 0] == pytest.approx(0.1)


def test_examples_are_averaged_and_shapes_checked():
    many = FIRST.expand_dims(example=3) * xr.DataArray([0.9, 1.0, 1.1], dims="example")
    assert (match_heads(many, SECOND)["match"] == match_heads(FIRST, SECOND)["match"]).all()
    with pytest.raises(ConfigError, match="give the same of both"):
        match_heads(FIRST, SECOND[:, :2])
    with pytest.raises(ConfigError, match="layer, head and a score"):
        match_heads(FIRST[..., 0], SECOND[..., 0])


def test_a_renumbered_circuit_agrees_wholly_and_beats_random_matchings():
    match = match_heads(FIRST, SECOND)["match"]
    circuit = Circuit(["input->L0.H0.v", "L0.H0->L1.H2.k", "input->L1.H2.q", "L1.H2->logits"])
    other = rename_heads(circuit, match)
    assert other == Circuit(["input->L0.H1.v", "L0.H1->L1.H0.k", "input->L1.H0.q", "L1.H0->logits"])
    result = agreement(circuit, other, match, nulls=500)
    assert float(result["jaccard"]) == 1.0
    assert float(result["jaccard_unmatched"]) == 0.0
    # A random matching of 3 heads in 2 layers hits both with chance 1/9.
    assert float(result["p_value"]) == pytest.approx(1 / 9, abs=0.05)


def test_heads_outside_the_matching_are_an_error():
    with pytest.raises(ConfigError, match="2 layers of 3 heads"):
        rename_heads(Circuit(["L2.H0->logits"]), match_heads(FIRST, SECOND)["match"])
