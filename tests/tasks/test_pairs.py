"""Pairs of all corruptions at once."""

import numpy as np
import pytest
import torch

from mechinterp.core import Batch, ConfigError, Pair, ShapeError, derive_seed
from mechinterp.known import induction_model
from mechinterp.patching import patch_edges
from mechinterp.tasks import Induction, Task

TASK = Induction(vocab=24, seq_len=20, segment=5, repeats=2)


def test_a_mixture_holds_every_corruption():
    pair = TASK.pair(9, 3)
    parts = [TASK.pair(size, derive_seed(3, "pair", kind), kind) for kind, size in (("successor", 5), ("match", 4))]
    assert torch.equal(pair.clean.inputs, torch.cat([part.clean.inputs for part in parts]))
    assert torch.equal(pair.corrupted.inputs, torch.cat([part.corrupted.inputs for part in parts]))
    assert pair.clean.roles["other_A"][:5].tolist() == [-1] * 5 and (pair.clean.roles["other_A"][5:] >= 0).all()
    assert set(pair.clean.latents) == set(TASK.latents)


def test_a_pair_knows_each_examples_corruption():
    pair = TASK.pair(9, 3)
    assert pair.corruption == ("successor",) * 5 + ("match",) * 4
    assert TASK.pair(6, 1, "match").corruption == ("match",) * 6
    assert pair[torch.tensor([0, 8])].corruption == ("successor", "match")
    assert pair[3:6].to("cpu").corruption == ("successor", "successor", "match")
    assert Pair(pair.clean, pair.corrupted)[:2].corruption == ()
    with pytest.raises(ShapeError, match="1 corruptions are named for 9 examples"):
        Pair(pair.clean, pair.corrupted, ("match",))


def test_a_mixture_comes_apart_into_its_corruptions():
    shuffled = TASK.pair(9, 3)[torch.tensor([8, 0, 1, 7, 2, 3, 4, 5, 6])]
    parts = shuffled.by_corruption()
    assert list(parts) == ["match", "successor"]
    for kind, size in (("successor", 5), ("match", 4)):
        alone = TASK.pair(size, derive_seed(3, "pair", kind), kind)
        assert set(map(tuple, parts[kind].corrupted.inputs.tolist())) == set(
            map(tuple, alone.corrupted.inputs.tolist())
        )


class Drawing:
    """Draws one corruption at a time; no task by itself."""

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        assert corruption in ("successor", "match")
        return Pair(*(getattr(TASK.pair(batch, seed, corruption), side) for side in ("clean", "corrupted")))


class DrawingTask(Task):
    """A task's base class that draws pairs and no batches: abstract."""

    corruptions = ("successor", "match")

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        return Drawing.pair(self, batch, seed, corruption)  # type: ignore[arg-type]


class OfMixin(Drawing, Task):
    """Its pairs come from a class that is no task."""

    name = "pairs-of-a-mixin-test"
    corruptions = ("successor", "match")

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        return TASK.batch(batch, seed)


class OfBase(DrawingTask):
    """Its pairs come from an abstract task."""

    name = "pairs-of-a-base-test"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        return TASK.batch(batch, seed)


class OfOverride(OfBase):
    """Its pairs are those of its base, the other way round."""

    name = "pairs-of-an-override-test"

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "all") -> Pair:
        return super().pair(batch, seed, corruption)[torch.arange(batch - 1, -1, -1)]


@pytest.mark.parametrize("task", [OfMixin(), OfBase(), OfOverride()], ids=lambda task: task.name)
def test_pairs_are_mixed_wherever_the_method_was_written(task):
    pair, ours = task.pair(9, 3), TASK.pair(9, 3)
    assert pair.corruption == ours.corruption == ("successor",) * 5 + ("match",) * 4
    parts, expected = pair.by_corruption(), ours.by_corruption()
    for name, part in parts.items():
        order = slice(None) if not isinstance(task, OfOverride) else torch.arange(len(part) - 1, -1, -1)
        assert torch.equal(part[order].corrupted.inputs, expected[name].corrupted.inputs)


def test_an_unknown_corruption_is_refused():
    with pytest.raises(ConfigError, match="no corruption 'macth'"):
        TASK.pair(6, 1, "macth")


def test_a_mixture_shows_edges_that_one_corruption_hides():
    """In the hand-made model the key path is invisible while only the copied token changes, and the reverse."""
    hand = induction_model(vocab=24, seq_len=20, dtype=torch.float64)
    task = Induction(vocab=24, seq_len=20, segment=5, repeats=2)
    seen = {}
    for corruption in ("successor", "match", "all"):
        result = patch_edges(hand.model, task.pair(16, 0, corruption), inputs="split")
        effect = result["effect"].mean("example")
        seen[corruption] = {str(edge) for edge in effect["edge"].values[np.abs(effect.values) > 1e-6]}
    assert seen["successor"] != seen["match"]
    assert seen["all"] == seen["successor"] | seen["match"]
    assert any(edge.endswith(".k") for edge in seen["match"] - seen["successor"])
