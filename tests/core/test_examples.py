"""Which examples were seen: names that depend on an example alone, and what is left of a pair."""

import pytest
import torch

from mechinterp.core import (
    Batch,
    Circuit,
    ConfigError,
    Pair,
    example_names,
    held_out,
    join_names,
    seen_by,
    split_names,
)


def pair(seed: int, count: int = 6, vectors: bool = False) -> Pair:
    draw = torch.Generator().manual_seed(seed)
    shape = (count, 5, 3) if vectors else (count, 5)
    one, other = (
        torch.randn(shape, generator=draw) if vectors else torch.randint(99, shape, generator=draw) for _ in "ab"
    )
    scored = torch.ones(count, 5, dtype=torch.bool)
    return Pair(Batch(one, one, scored), Batch(other, other, scored))


@pytest.mark.parametrize("vectors", [False, True])
def test_a_name_is_of_the_two_inputs_and_of_nothing_else(vectors: bool):
    one = pair(0, vectors=vectors)
    names = example_names(one)
    assert len(set(names)) == 6 and all(len(name) == 8 for name in names)
    order = torch.tensor([4, 0, 2])
    assert example_names(one[order]) == [names[number] for number in order]
    assert example_names(Pair(one.corrupted, one.clean)) == names
    assert example_names(one.to("cpu", torch.float64)) == names
    assert not set(names) & set(example_names(pair(1, vectors=vectors)))
    # The same clean input, corrupted in another way, is another example.
    mixed = Pair(one.clean, pair(1, vectors=vectors).corrupted)
    assert not set(names) & set(example_names(mixed))


def test_names_are_kept_as_one_text():
    names = example_names(pair(0))
    text = join_names(names, names[:2])
    assert len(text) == 6 * 8 and split_names(text) == frozenset(names)
    assert split_names("") == frozenset() == seen_by({"a": 1.0})
    for damaged in (text[:-1], 3, None):
        with pytest.raises(ConfigError, match="8 letters for each"):
            split_names(damaged)


def test_what_was_seen_is_left_out():
    one, other = pair(0), pair(1)
    rest, left_out = held_out(Pair.join([one[2:4], other]), {"seen": join_names(example_names(one))})
    assert left_out == 2 and example_names(rest) == example_names(other)
    assert held_out(other, {"seen": join_names(example_names(one))}) == (other, 0)
    assert held_out(one, {}) == (one, 0)
    with pytest.raises(ConfigError, match=r"found on 6 of these 7 examples, which leaves 1: draw others"):
        held_out(Pair.join([one, other[:1]]), {"seen": join_names(example_names(one))})


def test_what_either_circuit_has_seen_stays_with_what_is_made_of_both():
    one, other = (
        Circuit([edge], origin={"method": "acdc", "seen": join_names(example_names(pair(seed)))})
        for seed, edge in enumerate(["input->logits", "L0.H0->logits"])
    )
    both = join_names(example_names(pair(0)), example_names(pair(1)))
    assert (one | other).origin == (one & other).origin == (one - other).origin == {"seen": both}
    assert (one | Circuit(["L0.H1->logits"])).origin == {"seen": one.origin["seen"]}
    assert Circuit.from_dict(one.to_dict()).origin == one.origin
