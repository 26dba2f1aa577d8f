import pytest
import torch

from mechinterp.core import ConfigError, Pair
from mechinterp.interventions import run_edited
from mechinterp.models import induction_model


@pytest.fixture(scope="module")
def made():
    return induction_model(inert_heads=2, seed=3)


@pytest.mark.parametrize("corruption", ["successor", "match", "query"])
def test_it_copies_what_followed(made, corruption):
    pair: Pair = made.pair(32, seed=1, corruption=corruption)
    for batch in (pair.clean, pair.corrupted):
        logits = made.model(batch.inputs)[:, -1]
        answer = batch.targets[:, -1]
        torch.testing.assert_close(logits.gather(1, answer[:, None])[:, 0], torch.full((32,), 8.0).double())
        others = logits.scatter(1, answer[:, None], 0.0)
        assert others.abs().max() < 1e-12
    assert (pair.clean.targets != pair.corrupted.targets)[:, -1].all()
    assert torch.equal(pair.clean.wrong[:, -1], pair.corrupted.targets[:, -1])


def test_a_twin_differs_only_in_what_the_circuit_reads(made):
    for corruption, differing in [("successor", 2), ("match", 2), ("query", 1)]:
        pair = made.pair(64, seed=0, corruption=corruption)
        assert ((pair.clean.inputs != pair.corrupted.inputs).sum(1) == differing).all()
        a, b, at = pair.clean.roles["first_A"], pair.clean.roles["first_B"], torch.arange(64)
        assert torch.equal(pair.clean.inputs[at, a], pair.clean.inputs[:, -1])
        assert torch.equal(pair.clean.inputs[at, b], pair.clean.targets[:, -1])


def test_ablating_the_previous_token_head_breaks_copying(made):
    pair = made.pair(64, seed=2)
    right = pair.clean.targets[:, -1]

    def accuracy(head):
        def edit(z):
            z = z.clone()
            z[:, :, head] = 0
            return z

        logits = run_edited(made.model, pair.clean.inputs, {"blocks.0.attn.hook_z": edit})[:, -1]
        return (logits.argmax(-1) == right).double().mean().item()

    true = next(edge.source.head for edge in made.circuit if str(edge.reader).endswith(".k") and edge.source.layer == 0)
    assert accuracy(true) < 0.3
    assert [accuracy(head) for head in range(3) if head != true] == [1.0, 1.0]


def test_the_rotation_hides_the_axes_and_changes_nothing_else():
    plain, turned = induction_model(rotate=False), induction_model(rotate=True)
    inputs = plain.pair(8).clean.inputs
    torch.testing.assert_close(plain.model(inputs), turned.model(inputs), rtol=0, atol=1e-12)
    assert (plain.model.W_E != 0).sum() == 12 and (turned.model.W_E.abs() > 1e-6).double().mean() > 0.99


def test_bad_sizes_and_words(made):
    with pytest.raises(ConfigError, match="vocab=5"):
        induction_model(vocab=5)
    with pytest.raises(ConfigError, match="Did you mean 'match'"):
        made.pair(4, corruption="mach")
