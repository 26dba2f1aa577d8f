"""Benchmarks run, agree with their peers, and say what they measured. Their times are not judged here."""

import json

import numpy as np
import pytest
import torch

from mechinterp import bench
from mechinterp.bench.edges import hooked_edges
from mechinterp.bench.inputs import random_model, random_pair
from mechinterp.bench.minimal import Minimal
from mechinterp.bench.scale import IN_TURN
from mechinterp.bench.timing import Times, alternate, measure
from mechinterp.bench.training import give_weights
from mechinterp.cli import run
from mechinterp.core import ConfigError, using_threads
from mechinterp.models import ModelConfig, Transformer
from mechinterp.patching import patch_edges


@pytest.mark.parametrize("name", bench.NAMES)
def test_quick_run(name):
    result = bench.run(name, quick=True)
    assert json.loads(json.dumps(result)) == result  # plain data
    assert result["name"] == name and result["quick"] and result["threads"] == 1
    assert 0 <= result["low"] <= result["ratio"] <= result["high"]
    assert result["ratio"] > 0 or name == "found"
    assert result["meaning"] and result["sizes"] and result["clock"] == "processor time"
    if name == "training":
        assert result["sizes"][0]["same_loss"] < 1e-5
        assert result["target"] == 1.10
    elif name == "tasks":
        assert {row["size"] for row in result["sizes"]} == {
            "induction",
            "markov",
            "classification",
            "regression",
            "modular",
            "moving_sum",
            "recall",
        }
        assert all(row["draw_seconds"] < row["step_seconds"] for row in result["sizes"])
        assert result["ratio"] == min(row["ratio"] for row in result["sizes"])
    elif name == "discovery":
        rows = {row["size"]: row for row in result["sizes"]}
        # Gradients vanish in saturated attention, and a random order is worth nothing.
        assert rows["exact"]["auroc"] == 1 and rows["eap-ig"]["auroc"] < 0.8
        assert rows["random"]["auroc"] < 0.7 and rows["random"]["exact_recovery"] == 0
        assert result["auroc"] == 1 and rows[result["best"]]["exact_recovery"] == result["exact_recovery"]
        assert rows["exact"]["excess"] == 0 < rows["random"]["excess"]
        assert {one["exam"] for one in result["exams"]} >= {"copies, groups", "induction, zero"}
    elif name == "found":
        assert {row["size"].split(":")[0] for row in result["sizes"]} == {
            "trained",
            "answers permuted",
            "untrained",
            "shuffled-targets",
            "independent-inputs",
        }
        assert result["ratio"] == 0 and result["high"] > 0.3  # four models tell little
    elif name == "onset":
        truths = {row["truth"]: row for row in result["sizes"]}
        assert set(truths) >= {"none", "gradual", "one", "two stages", "transient"}
        assert truths["transient"]["named"] > 0.6 and truths["none"]["called"] < 0.3
    elif name == "coverage":
        rows = {row["size"]: row for row in result["sizes"]}
        assert rows["regression: error-of-one-step"]["coverage"] > 0.85 and len(rows) >= 10
        assert result["target"] == 0.93
    elif name == "trace":
        assert result["without_effects"] < result["ratio"] and result["dates_agree"] == 1
        assert len(result["sizes"]) == 9 and result["adaptive_steps"] <= result["checkpoints"]
    elif name == "checkpoints":
        assert [row["checkpoints"] for row in result["sizes"]] == [2, 4]
        assert result["ratio"] < 1.2 and all(row["again"] < row["seconds"] / 2 for row in result["sizes"])
    elif name == "scale":
        # Times and memory of a small model mean nothing; the scores are the peer's.
        assert result["error"] < 1e-5 < result["sizes"][0]["largest_effect"] and result["target"] == 1.0
        assert result["sizes"][0]["edges"] == 110 and result["memory_ratio"] > 0
    else:
        assert result["error"] < 1e-5
        assert all(row["largest_effect"] > 0.1 for row in result["sizes"] if row["scored"] == "last")
        assert result["target"] == 15.0
    if name == "edges":
        assert result["exact_over_eap_ig"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": "rotary", "rotary_base": 100.0, "attn_bias": False},
        {},
        {"d_mlp": 24, "act_fn": "gelu"},
        {"d_mlp": 24, "act_fn": "gelu_new", "positions": "rotary"},
    ],
    ids=str,
)
def test_the_minimal_model_is_the_same_function(settings):
    """Else the floor would be another model's."""
    model = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=11, n_ctx=7, **settings))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ln" not in name:
                weight.add_(0.5 * torch.randn(weight.shape, generator=draw))
    floor = Minimal(model.config)
    give_weights(floor, model)
    tokens = torch.randint(11, (3, 7), generator=draw)
    torch.testing.assert_close(floor(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    assert sum(weight.numel() for weight in floor.parameters()) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("inputs", ["merged", "split"])
def test_the_loop_over_edges_is_right(inputs):
    """The peer must be the same quantity: all edges of a model with MLPs, every position scored."""
    model, pair = random_model(2, 2, 6, d_mlp=16, d_model=16), random_pair(6, "all", batch=3)
    ours = patch_edges(model, pair, direction="noise", inputs=inputs)["effect"].values
    assert np.abs(ours).max() > 0.05
    np.testing.assert_allclose(hooked_edges(model, pair, inputs).numpy(), ours, atol=1e-5)


def test_the_ways_of_the_scale_benchmark_are_what_they_say():
    model, pair = random_model(2, 2, 6, d_mlp=16, d_model=16).requires_grad_(False), random_pair(6, "last", batch=3)
    scores = {way: call(model, pair) for way, call in IN_TURN.items()}
    edges = len(model.config.graph().edges)
    assert [len(scores[way]) for way in ("peer", "eap-ig", "eap", "clean-corrupted")] == [edges] * 4
    assert len(scores["estimates of all heads"]) == len(scores["exact, all heads"]) == 4
    assert scores["exact, edges into one key"] == pytest.approx(
        [patch_edges(model, pair, edges=["input->L0.H1.k"])["effect"].mean("example").item()]
    )
    assert scores["peer"] == pytest.approx(scores["eap-ig"], abs=1e-6) and max(scores["peer"]) > 0.01


def test_ratio_is_the_median_over_blocks():
    times = Times(np.array([2.0, 4.0, 6.0, 8.0, 40.0]), np.array([1.0, 1.0, 2.0, 2.0, 1.0]))
    assert times.ratio() == pytest.approx({"ratio": 4.0, "low": 2.4, "high": 25.6})
    assert times.seconds("a", "b") == {"a": 6.0, "b": 1.0}


def test_steps_alternate_and_begin_in_turn():
    ran = []
    times = alternate(lambda: ran.append("a"), lambda: ran.append("b"), blocks=3, calls=(1, 2))
    assert "".join(ran) == "ab" + "abb" + "bba" + "abb"
    assert times.first.shape == times.second.shape == (3,)


def test_what_another_program_takes_does_not_count():
    import time

    assert measure(lambda: time.sleep(0.05)) < 0.02


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'patching'"):
        bench.run("patchin")
    with pytest.raises(ConfigError, match="threads=0"):
        bench.run("edges", threads=0)


def test_the_command(capsys):
    assert run(["bench", "training", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "training"
    assert run(["bench", "edges", "--quick"]) == 0
    assert "29 merged edges" in capsys.readouterr().out
    assert run(["bench", "patchin"]) == 2
    assert "Did you mean 'patching'" in capsys.readouterr().err


def test_searches_on_a_trained_model(tmp_path):
    result = bench.run("discovery", quick=True, folder=tmp_path)
    rows = {row["shape"]: row for row in result["sizes"]}
    assert {row["size"] for row in result["sizes"]} == {"regression"} and (tmp_path / "regression").is_dir()
    # Five edges: one step of gradient descent needs three of them.
    assert rows["smallest"]["edges"] == rows["greedy"]["edges"] == 3 and rows["smallest"]["held_out_low"] > 0.9
    assert rows["random"]["edges"] >= 3 and rows["top-k"]["stability"] == 1
    with pytest.raises(ConfigError, match="'tasks' keeps no Runs"):
        bench.run("tasks", folder=tmp_path)
