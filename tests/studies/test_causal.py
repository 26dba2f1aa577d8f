"""The causal half of a study: every corruption has its say, and shares are taken over the pairs that they are about."""

import sys

import numpy as np
import pytest
import torch
import xarray as xr

from mechinterp.core import Batch, Circuit, ConfigError, Pair, derive_seed, example_names
from mechinterp.curves import onset
from mechinterp.known import induction_model
from mechinterp.studies import Study, causal
from mechinterp.studies.evidence import circuit_rows, node_rows, pack_circuit, probe_rows
from mechinterp.studies.heads import pack_onsets
from mechinterp.studies.study import _verdict
from mechinterp.tasks import Task

BEST = {"induction": "L0.H0"}


FEW = {"seed": 0, "examples": 16, "nulls": 2, "untrained": 2}


class HalfBlind(Task):
    """Pairs of the hand-made model; under the second corruption clean and corrupted run are one."""

    name = "half-blind-study-test"
    corruptions = ("match", "nothing")

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        return self.pair(batch, seed).clean

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        pair = induction_model().pair(batch, seed, "match")
        return pair if corruption == "match" else Pair(pair.clean, pair.clean)


def test_a_corruption_without_a_gap_leaves_no_circuit_to_explain():
    """On the mixture the other corruption would pay for it."""
    explained = causal.circuit_evidence(induction_model().model, HalfBlind(), **FEW)
    assert len(explained.circuit) == 0 and explained.fewest_edges is None and explained.evaluation is None
    assert explained.nodes is not None and explained.curve is not None and bool(explained.curve["valid"])
    assert (explained.answer, explained.reason) == (
        "no",
        "clean and corrupted run do not differ under corruption nothing",
    )


class Matching(HalfBlind):
    """The corruption that shows alone."""

    name = "matching-study-test"
    corruptions = ("match",)


def test_only_a_missing_gap_means_that_there_is_no_circuit(monkeypatch):
    def broken(*_, **__):
        raise ConfigError("edges have a NaN score")

    model = induction_model().model
    explained = causal.circuit_evidence(model, Matching(), **FEW)
    assert explained.fewest_edges == len(explained.circuit) == 3
    monkeypatch.setattr(causal, "discover", broken)
    with pytest.raises(ConfigError, match="NaN score"):
        causal.circuit_evidence(model, Matching(), **FEW)


def test_exact_effects_of_edges_are_computed_once_for_the_circuit(monkeypatch):
    def again(*_, **__):
        raise ConfigError("computed a second time")

    monkeypatch.setattr(sys.modules["mechinterp.discovery.ranking"], "patch_edges", again)
    evidence = causal.circuit_evidence(induction_model().model, Matching(), **FEW)
    assert len(evidence.circuit) == 3 and evidence.circuit.origin["scores"] == "exact"


def test_a_head_is_measured_over_the_pairs_that_have_its_place():
    effect = np.array([[4.0, 4.2, np.nan, np.nan]])[None]
    dims = ("layer", "head", "role", "example")
    coords = {"layer": [0], "head": [0], "role": ["other_B"]}
    nodes = xr.Dataset(
        {
            "effect": (dims, effect[None].reshape(1, 1, 1, 4)),
            "clean": ("example", [9.0, 9.2, 30.0, 31.0]),
            "corrupted": ("example", [1.0, 1.0, 1.0, 1.0]),
        },
        coords=coords,
    )
    (row,) = node_rows(nodes, BEST, nodes["effect"].mean("example"))
    assert row["value"] == pytest.approx(4.1 / 8.1) and "2 of 4 pairs" in row["note"]


def test_an_untrained_model_has_no_share_to_restore():
    nodes = xr.Dataset(
        {
            "effect": (("layer", "head", "example"), [[[0.1, -0.2, 0.05]]]),
            "clean": ("example", [0.1, -0.1, 0.0]),
            "corrupted": ("example", [-0.1, 0.1, 0.02]),
        },
        coords={"layer": [0], "head": [0]},
    )
    assert not list(node_rows(nodes, BEST, nodes["effect"].mean("example")))


def test_an_erasure_too_wide_to_mean_anything_is_not_a_number():
    names = ("score", "score_low", "score_high", "untrained", "shuffled")
    found = xr.Dataset(
        {name: ("layer", [0.9, 0.5]) for name in names}
        | {name: (("layer", "example"), np.ones((2, 4))) for name in ("effect", "effect_random")}
        | {"majority": 0.1},
        coords={"layer": [0, 1]},
        attrs={"erasure_reason": "63 of 64 directions are removed"},
    )
    rows = list(probe_rows({"previous_token": found}))
    assert [row["value"] for row in rows] == [0.9, "not testable", 0.5, "not testable"]
    found.attrs["erasure_reason"] = ""
    assert [row["value"] for row in probe_rows({"previous_token": found})] == [0.9, 1.0, 0.5, 1.0]


def test_no_pairs_is_not_a_causal_negative():
    flat = onset(xr.DataArray([1.0, 1.0], dims="step", coords={"step": [0, 1]}))
    text = _verdict(Study("", [], {"onsets": pack_onsets({"loss": flat})}, {}))
    assert "No intervention is possible" in text and "Loss: no transition" in text


@pytest.mark.parametrize(
    ("answer", "judged", "text"),
    [
        ("yes", True, "A circuit of 3 of 9 live edges recovers 92% of the gap on held-out pairs (random circuits"),
        ("no", True, "No circuit is found: the reason. Loss: no transition"),
        ("no", False, "No circuit is found: the reason. Loss: no transition"),
        ("undecided", True, "Whether 3 of 9 live edges are a circuit is undecided: the reason. Loss: no transition"),
    ],
)
def test_the_verdict_says_whether_a_circuit_is_found(answer, judged, text):
    flat = onset(xr.DataArray([1.0, 1.0], dims="step", coords={"step": [0, 1]}))
    numbers = {"live_size": 3, "live_edges": 9, "faithfulness": 0.92, "null_faithfulness_p95": 0.2}
    result = causal.CircuitEvidence(answer, "the reason", Circuit([]))
    parts = {"onsets": pack_onsets({"loss": flat}), "circuit": pack_circuit(result)}
    parts |= {"evaluation": xr.Dataset(numbers)} if judged else {}
    assert _verdict(Study("", [], parts, {})).startswith(text)


class Few(Matching):
    """The pairs of the other task, of which there are twenty."""

    name = "few-study-test"

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        draw = torch.randint(20, (batch,), generator=torch.Generator().manual_seed(seed % 2**31))
        return Matching().pair(20, 0)[draw]


def test_held_out_pairs_that_the_search_saw_are_left_out():
    model, options = induction_model().model, {**FEW, "examples": 12}
    evidence = causal.circuit_evidence(model, Few(), **options)
    search, held = (Few().pair(12, derive_seed(options["seed"], "study", part)) for part in ("seen", "held-out"))
    repeated = sum(name in example_names(search) for name in example_names(held))
    assert evidence.evaluation is not None and evidence.curve is not None and evidence.nodes is not None
    assert evidence.evaluation.attrs["left_out"] == repeated > 0
    assert evidence.evaluation.sizes["example"] == evidence.nodes.sizes["example"] == 12 - repeated
    note = {row["name"]: row["note"] for row in circuit_rows(evidence)}["gap recovered by the circuit"]
    assert f"{repeated} held-out pairs are left out" in note


def test_no_circuit_is_judged_where_the_search_saw_every_pair():
    evidence = causal.circuit_evidence(induction_model().model, Few(), **{**FEW, "examples": 200})
    assert evidence.answer == "undecided" and evidence.evaluation is None and len(evidence.circuit) == 0
    assert evidence.reason == "of 200 pairs to judge a circuit on, the search saw 200: too few are left"
