import pytest
import torch

from mechinterp.core import ConfigError, Pair
from mechinterp.interventions import run_edited
from mechinterp.known import conceal, induction_model
from mechinterp.models import ModelConfig, Transformer


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


def test_concealing_a_model_of_several_heads_moves_them_and_keeps_the_function():
    """Biases and MLPs too; the map of edges says where each head went."""
    config = ModelConfig(n_layers=2, n_heads=3, d_model=10, d_head=4, d_mlp=6, d_vocab=7, n_ctx=5, normalization="none")
    plain = Transformer(config, seed=1).double()
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("b_"):
                weight.copy_(torch.linspace(-1, 1, weight.numel()).reshape(weight.shape))
    model, moved = conceal(plain, inert_heads=2, seed=5)
    tokens = torch.arange(20).reshape(4, 5) % 7
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=1e-12)
    assert model.config.n_heads == 5 and model.config.d_model == 14
    places = [[moved(f"L{layer}.H{head}->logits").source.head for head in range(3)] for layer in (0, 1)]
    assert all(len(set(row)) == 3 for row in places) and places != [[0, 1, 2]] * 2
    assert str(moved("L0.H2->L1.H0.k")) == f"L0.H{places[0][2]}->L1.H{places[1][0]}.k"
    assert str(moved("pos->L1.mlp")) == "pos->L1.mlp"

    def silence(heads):
        def edit(z):
            z = z.clone()
            z[:, :, heads] = 0
            return z

        return edit

    hook = "blocks.0.attn.hook_z"
    one = run_edited(plain, tokens, {hook: silence([1])})
    torch.testing.assert_close(run_edited(model, tokens, {hook: silence([places[0][1]])}), one, rtol=0, atol=1e-12)
    inert = [head for head in range(5) if head not in places[0]]
    torch.testing.assert_close(run_edited(model, tokens, {hook: silence(inert)}), plain(tokens), rtol=0, atol=1e-12)


def test_only_a_plain_model_is_concealed():
    for settings in ({}, {"normalization": "none", "readout_layers": 1}):
        with pytest.raises(ConfigError):
            conceal(Transformer(ModelConfig(n_layers=1, n_heads=1, d_model=4, d_vocab=3, n_ctx=3, **settings)))
    with pytest.raises(ConfigError, match="inert_heads=-1"):
        induction_model(inert_heads=-1)


def test_bad_sizes_and_words(made):
    with pytest.raises(ConfigError, match="vocab=5"):
        induction_model(vocab=5)
    with pytest.raises(ConfigError, match="Did you mean 'match'"):
        made.pair(4, corruption="mach")
