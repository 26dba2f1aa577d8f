"""Live, idle, invisible: on models whose circuit is known, where each exam says which edges it can see."""

import numpy as np
import pytest
import torch

from mechinterp.core import ConfigError
from mechinterp.core.sites import Edge
from mechinterp.evaluation import edge_states, live_edges
from mechinterp.known import compiled_model, known_models
from mechinterp.patching import patch_edges

MODELS = list(known_models())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float64) for name in MODELS), *((name, torch.float32) for name in ("copies", "compiled/dyck_1"))],
)
def test_live_are_the_edges_that_the_exams_see_and_rounding_is_not_among_them(name, dtype):
    """Dyck-1 and the histogram have steep lookup tables: rounding is 300 units in the last place of the gap there."""
    known = known_models()[name].build(inert_heads=1, dtype=dtype)
    inputs = known.circuit.inputs
    for ablation, corruption in dict.fromkeys((key[0], key[1]) for key in known.exams):
        pair = known.pair(32, 1, corruption)
        directions = ("noise", "denoise") if ablation == "resample" else ("noise",)
        seen = {edge for way in directions for edge in known.seen(ablation, corruption, way)}
        states = edge_states(known.model, pair, ablation=ablation, metric=known.metric, inputs=inputs)
        assert {Edge.parse(str(edge)) for edge in states["edge"].values[states.values == "live"]} == seen
        live = live_edges(known.model, pair, states=states, ablation=ablation, metric=known.metric, inputs=inputs)
        assert set(live) <= known.circuit.edges


def test_sharp_and_large_inert_parts_are_rounding_too():
    """Inert heads a thousand times as large, next to a rotation: what they leave on the output is no effect."""
    known = known_models()["copies"].build(inert_heads=2)
    with torch.no_grad():
        for block in known.model.blocks:
            block.attn.W_V.mul_(1000)
            block.attn.W_O.div_(1000)
        known.model.unembed.W_U.mul_(1e4)
    pair = known.pair(64, 1)
    states = edge_states(known.model, pair, inputs="split")
    assert set(states["edge"].values[states.values == "live"]) == {
        str(edge) for way in ("noise", "denoise") for edge in known.seen(direction=way)
    }


def test_idle_and_invisible_both_read_zero_and_are_told_apart():
    known = known_models()["induction"].build(inert_heads=1)
    pair = known.pair(32, 1, "successor")
    states = edge_states(known.model, pair, inputs="split").to_series()
    effects = np.abs(patch_edges(known.model, pair, inputs="split")["effect"]).max("example").to_series()
    positions = [name for name in states.index if name.startswith("pos->")]
    assert set(states[positions]) == {"invisible"}
    assert effects[positions].max() < 1e-12
    # Inert heads see another token in the two runs, and write where nothing is read.
    true = {str(edge) for edge in known.circuit}
    heads = {str(edge.source) for edge in known.circuit if edge.source.head is not None}
    inert = [n for n in states.index if n.endswith("->logits") and n not in true and n.split("->")[0] not in heads]
    inert = [name for name in inert if name.startswith("L")]
    assert len(inert) == 2 and set(states[inert]) == {"idle"} and effects[inert].max() < 1e-12
    # Another ablation sees positions.
    zero = edge_states(known.model, pair, ablation="zero", inputs="split").to_series()
    assert "invisible" not in set(zero[positions]) and (zero[positions] == "live").sum() == 2


def test_patching_says_which_zeros_say_nothing():
    known = known_models()["induction"].build(inert_heads=1)
    pair = known.pair(8, 1)
    result = patch_edges(known.model, pair, inputs="split", edges=["pos->L0.H0.q", "embed->L1.H0.v"])
    assert result["visible"].values.tolist() == [False, True]
    assert patch_edges(known.model, pair, inputs="split", ablation="zero")["visible"].all()


def test_the_wire_out_of_a_silent_backup_lives_though_no_single_patch_shows_it():
    known = known_models()["backup"].build(inert_heads=1)
    pair = known.pair(32, 1)
    (wire,) = [edge for edge in known.circuit if edge.source.layer == 1]
    states = edge_states(known.model, pair, inputs="split")
    assert str(states.sel(edge=str(wire)).values) == "invisible"
    live = set(live_edges(known.model, pair, inputs="split"))
    assert wire in live and live <= known.circuit.edges and len(live) == 5


def test_states_of_known_live_edges_need_no_patching():
    known = compiled_model("reverse")
    pair = known.pair(16, 1)
    states = edge_states(known.model, pair, live=known.seen().edges, inputs="split").to_series()
    assert {name for name in states.index if states[name] == "live"} == {str(edge) for edge in known.seen()}
    with pytest.raises(LookupError, match="L9"):
        edge_states(known.model, pair, live=["L9.H0->logits"], inputs="split")
    with pytest.raises(ConfigError, match="no ablation"):
        edge_states(known.model, pair, ablation="ones")
