"""What keeps a circuit from being judged on the data that found it."""

import torch

from mechinterp.core import Batch, Circuit, Pair


def pair(seed):
    tokens = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(seed))
    scored = torch.ones(4, 6, dtype=torch.bool)
    return Pair(Batch(tokens, tokens, scored), Batch(tokens.flip(1), tokens, scored))


def test_an_origin_travels_with_a_circuit_and_is_no_part_of_what_it_is():
    found = Circuit(["input->logits", "L0.H0->logits"], origin={"method": "acdc", "pair": "ab"})
    plain = Circuit(["input->logits", "L0.H0->logits"])
    assert found == plain and hash(found) == hash(plain)
    assert found.pruned().origin == {"method": "acdc", "pair": "ab"}
    assert Circuit.from_dict(found.to_dict()).origin == found.origin
    assert (found | plain).origin == {} and "origin" not in plain.to_dict()


def test_a_fingerprint_is_of_the_inputs_both_clean_and_corrupted():
    one = pair(0)
    assert one.fingerprint == pair(0).fingerprint and len(one.fingerprint) == 16
    assert one.fingerprint != pair(1).fingerprint
    assert one.fingerprint != Pair(one.corrupted, one.clean).fingerprint
    assert one.fingerprint != one[:2].fingerprint
