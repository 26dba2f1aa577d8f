from itertools import pairwise

import numpy as np
import pytest

from mechinterp.core import ConfigError, Pair, example_names, split_names
from mechinterp.evaluation import circuit_at, cpr_cmd, curve, fewest_edges
from mechinterp.evaluation.truth import FRACTIONS
from mechinterp.known.induction import induction_model
from mechinterp.patching import patch_edges


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=1)


@pytest.fixture(scope="module")
def effects(made):
    return patch_edges(made.model, made.pair(16, seed=0), ablation="zero", inputs="split")


@pytest.fixture(scope="module")
def line(made, effects):
    return curve(made.model, made.pair(16, seed=1), effects, ablation="zero")


def test_the_curve_jumps_when_the_last_true_edge_enters(made, line):
    assert line["k"].values.tolist() == list(range(len(made.model.config.graph("split").edges) + 1))
    np.testing.assert_allclose(line["faithfulness"][7:], 1, atol=1e-9)
    assert (line["faithfulness"][:7] < 0.9).all()
    assert float(line["faithfulness"][0]) == 0
    assert fewest_edges(line) == 7
    assert circuit_at(line, 7) == made.circuit
    assert circuit_at(line, 7).origin["pair"] == made.pair(16, seed=1).fingerprint
    assert float(line["area"]) == pytest.approx(np.trapezoid(line["faithfulness"], line["k"] / line["k"].max()))


def test_chosen_points_agree_with_the_whole_curve(made, effects, line):
    few = curve(made.model, made.pair(16, seed=1), effects, ablation="zero", ks=[3, 7])
    assert few["k"].values.tolist() == [0, 3, 7, int(line["k"].max())]
    np.testing.assert_allclose(few["faithfulness"], line["faithfulness"].sel(k=few["k"]), atol=1e-9)
    with pytest.raises(ConfigError, match="k runs from 0"):
        curve(made.model, made.pair(8), effects, ablation="zero", ks=[10_000])


def test_cpr_and_cmd_are_mibs(made, effects, line):
    result = cpr_cmd(made.model, made.pair(16, seed=1), effects, ablation="zero")
    total = int(line["k"].max())
    ks = [int(x * total) for x in FRACTIONS]
    assert result["k"].values.tolist() == ks and ks[:5] == [0] * 5
    f = line["faithfulness"].values[ks]
    by_hand = sum((b - a) * (f[i] + f[i + 1]) / 2 for i, (a, b) in enumerate(pairwise(FRACTIONS)))
    assert float(result["cpr"]) == pytest.approx(by_hand)
    # All effects here are positive or zero up to rounding, so both rankings have the true edges first.
    g = result["faithfulness"].sel(ranking="absolute").values
    by_hand = sum((b - a) * (abs(1 - g[i]) + abs(1 - g[i + 1])) / 2 for i, (a, b) in enumerate(pairwise(FRACTIONS)))
    assert float(result["cmd"]) == pytest.approx(by_hand)
    assert float(result["cmd"]) < 0.3 < float(result["cpr"]) <= 0.999


def test_no_gap_no_curve(made, effects):
    clean = made.pair(8).clean
    line = curve(made.model, Pair(clean, clean), effects, ks=[7])
    assert not bool(line["valid"]) and np.isnan(line["faithfulness"]).all() and np.isfinite(line["m"]).all()
    assert fewest_edges(line) is None
    assert np.isnan(float(cpr_cmd(made.model, Pair(clean, clean), effects)["cpr"]))


def test_every_edge_needs_a_score(made, effects):
    with pytest.raises(ConfigError, match="1 of"):
        curve(made.model, made.pair(8), effects.isel(edge=slice(1, None)))


def test_cpr_ranks_by_sign_and_cmd_by_size(made, effects):
    """With every sign turned, the signed ranking has the true edges last and the absolute one has them first still."""
    pair = made.pair(16, seed=1)
    right = cpr_cmd(made.model, pair, effects, ablation="zero")
    turned = cpr_cmd(made.model, pair, -effects["effect"], ablation="zero")
    assert float(turned["cmd"]) == pytest.approx(float(right["cmd"]))
    assert float(turned["cpr"]) < 0.5 * float(right["cpr"])


def test_examples_of_the_scores_are_left_out(made, effects, line):
    seen, fresh = made.pair(16, seed=0), made.pair(16, seed=1)
    mixed = curve(made.model, Pair.join([seen[:5], fresh]), effects, ablation="zero")
    assert mixed.attrs.pop("left_out") == 5
    np.testing.assert_array_equal(mixed["faithfulness"], line["faithfulness"])
    assert split_names(circuit_at(mixed, 7).origin["seen"]) == {*example_names(seen), *example_names(fresh)}
    for verb in (curve, cpr_cmd):
        with pytest.raises(ConfigError, match="found on 16 of these 16 examples"):
            verb(made.model, seen, effects, ablation="zero")
