"""Pairs of all corruptions at once."""

import numpy as np
import pytest
import torch

from mechinterp.core import ConfigError, derive_seed
from mechinterp.known import induction_model
from mechinterp.measures.pairs import draw_pair
from mechinterp.patching import patch_edges
from mechinterp.tasks import Induction

TASK = Induction(vocab=24, seq_len=20, segment=5, repeats=2)


def test_a_mixture_holds_every_corruption():
    pair = draw_pair(TASK, 9, 3, "all")
    parts = [TASK.pair(size, derive_seed(3, "pair", kind), kind) for kind, size in (("successor", 5), ("match", 4))]
    assert torch.equal(pair.clean.inputs, torch.cat([part.clean.inputs for part in parts]))
    assert torch.equal(pair.corrupted.inputs, torch.cat([part.corrupted.inputs for part in parts]))
    assert pair.clean.roles["other_A"][:5].tolist() == [-1] * 5 and (pair.clean.roles["other_A"][5:] >= 0).all()
    assert set(pair.clean.latents) == set(TASK.latents)


def test_one_corruption_is_the_tasks_own():
    assert draw_pair(TASK, 6, 1).fingerprint == TASK.pair(6, 1).fingerprint
    assert draw_pair(TASK, 6, 1, "match").fingerprint == TASK.pair(6, 1, "match").fingerprint
    with pytest.raises(ConfigError, match="no corruption 'macth'"):
        draw_pair(TASK, 6, 1, "macth")


def test_a_mixture_shows_edges_that_one_corruption_hides():
    """In the hand-made model the key path is invisible while only the copied token changes, and the reverse."""
    hand = induction_model(vocab=24, seq_len=20, dtype=torch.float64)
    task = Induction(vocab=24, seq_len=20, segment=5, repeats=2)
    seen = {}
    for corruption in ("successor", "match", "all"):
        result = patch_edges(hand.model, draw_pair(task, 16, 0, corruption), inputs="split")
        effect = result["effect"].mean("example")
        seen[corruption] = {str(edge) for edge in effect["edge"].values[np.abs(effect.values) > 1e-6]}
    assert seen["successor"] != seen["match"]
    assert seen["all"] == seen["successor"] | seen["match"]
    assert any(edge.endswith(".k") for edge in seen["match"] - seen["successor"])
