import numpy as np
import pytest
import torch
import xarray as xr

from mechinterp.core import Circuit, ConfigError, derive_seed
from mechinterp.discovery import discover
from mechinterp.evaluation.agreement import agreement, match_heads, overlaps, rename_heads
from mechinterp.known import induction_model
from mechinterp.measures import measure
from mechinterp.models import Transformer
from mechinterp.tasks import Induction
from mechinterp.timeline import Memory, trace


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


def test_overlaps_over_time_beside_chance():
    edges = [f"e{number}" for number in range(6)]
    rows = [[np.nan] * 6, [1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0]]
    steps = [0, 1, 5, 9]
    line = xr.DataArray(np.array(rows, dtype=float), {"step": steps, "edge": edges}, ("step", "edge"))
    result = overlaps(line)
    np.testing.assert_allclose(result["size"], [np.nan, 2, 2, 3])
    np.testing.assert_allclose(result["with_previous"], [np.nan, np.nan, 1 / 3, 2 / 3])
    np.testing.assert_allclose(result["with_last"], [np.nan, 1 / 4, 2 / 3, 1])
    rng = np.random.default_rng(0)
    draws = [[set(rng.permutation(6)[:size]) for size in (2, 3)] for _ in range(20000)]
    expected = np.mean([len(a & b) / len(a | b) for a, b in draws])
    assert float(result["last_by_chance"][2]) == pytest.approx(expected, abs=0.005)
    with pytest.raises(ConfigError, match="dimensions step and edge"):
        overlaps(line.isel(step=1))


def test_a_timeline_of_circuits_ends_in_the_known_one(tmp_path):
    known = induction_model(vocab=16, seq_len=12, inert_heads=1, dtype=torch.float64)

    class Staged:
        path, steps, task = tmp_path, (0, 1, 2), Induction(vocab=16, seq_len=12, segment=4, repeats=2)

        def model(self, step):
            return known.model if step else Transformer(known.model.config, seed=1).double()

        def weights_hash(self, step):
            return str(step)

    line = trace(Staged(), [measure("circuit", examples=16), measure("edge_effects", examples=16)], store=Memory())
    last = line["circuit"].sel(step=2)
    found = set(last["edge"].values[last.values == 1])
    pair = Staged.task.pair(16, derive_seed(0, "measure", "edge_effects"))
    assert found == set(map(str, discover(known.model, pair)))
    assert float(overlaps(line["circuit"])["with_previous"].sel(step=2)) == 1
    assert np.isnan(line["circuit"].sel(step=0)).all()
