"""Measures of modular addition: a model that adds by hand, one whose neurons are waves, embeddings with and without."""

import math
from copy import deepcopy

import pytest
import torch

from mechinterp.attribution import fourier
from mechinterp.core import UnsupportedError
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, ModularAddition

MODULAR = ModularAddition(p=13)


class Adder(torch.nn.Module):
    """Logits `scale * cos w (a + b - c)` for one frequency, and on the training set a memory of the right answer."""

    def __init__(self, scale: float, memory: float, k: int = 2) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scale, self.memory, self.k = scale, memory, k

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        total = inputs[:, 0] + inputs[:, 1]
        angle = 2 * math.pi * self.k / 13 * (total[:, None] - torch.arange(13))
        known = MODULAR.training_set[inputs[:, 0], inputs[:, 1]].float()
        memory = torch.nn.functional.one_hot(total % 13, 13) * known[:, None]
        last = self.scale * angle.cos() + self.memory * memory + self.weight
        return torch.stack([torch.zeros_like(last), torch.zeros_like(last), last], 1)


def test_spectrum_and_progress_losses_of_a_model_that_adds_and_remembers():
    model = Adder(scale=9.0, memory=6.0)
    spectrum = measure("sum_spectrum")(model, MODULAR, 0)
    assert spectrum.dims == ("frequency",) and int(spectrum.idxmax()) == 2
    found = measure("progress_losses", frequencies=[2])(model, MODULAR, 0)
    assert found["group"].values.tolist() == ["train", "test"]
    answer = 9 * torch.cos(2 * math.pi * 2 / 13 * torch.arange(13))

    def loss(scale: float, memory: float) -> float:
        logits = scale / 9 * answer
        logits[0] += memory
        return float(-logits.log_softmax(0)[0])

    full = found.sel(logits="full")
    assert float(full.sel(group="test")) == pytest.approx(loss(9, 0), abs=1e-5)
    assert float(full.sel(group="train")) == pytest.approx(loss(9, 6), abs=1e-5)
    # A memory of 40% of the answers has a little of every frequency in it.
    assert float(found.sel(logits="restricted", group="train")) == pytest.approx(loss(9, 0), abs=0.25)
    assert float(found.sel(logits="excluded", group="test")) == pytest.approx(math.log(13), abs=0.5)
    own = measure("progress_losses")(Adder(scale=9.0, memory=0.0), MODULAR, 0)
    assert own.attrs["frequencies"] == "2"
    assert float(own.sel(logits="restricted", group="test")) == pytest.approx(loss(9, 0), abs=1e-5)
    assert float(own.sel(logits="excluded", group="train")) == pytest.approx(math.log(13), abs=1e-5)


def test_gradient_symmetricity_is_that_of_the_models_gradients():
    model = Transformer(ModelConfig(**MODULAR.preset().model), seed=1)
    found = measure("gradient_symmetricity", examples=20)(model, MODULAR, 0)
    assert found.dims == ("example",) and found.sizes["example"] == 20 and float(abs(found).max()) <= 1
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
    # With even attention both embeddings enter as one sum.
    assert measure("gradient_symmetricity", examples=20)(model, MODULAR, 0).values == pytest.approx(1, abs=1e-5)


def test_the_table_is_read_in_order():
    """Residues a and b are not interchanged: a model that answers a alone has no structure in a + b."""

    class First(Adder):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(inputs[:, :1], 13).float().expand(-1, 3, -1) + self.weight

    assert float(measure("sum_spectrum")(First(1, 1), MODULAR, 0).sum()) == pytest.approx(0, abs=1e-6)
    assert fourier.key_frequencies(torch.eye(13)[:, None].expand(13, 13, 13)) == []


def test_key_share_of_a_model_that_adds():
    model = Adder(scale=9.0, memory=0.0)
    found = measure("key_share")(model, MODULAR, 0)
    assert found.sel(quantity="share").item() == pytest.approx(1, abs=1e-6) and found.sel(quantity="count") == 1
    mixed = measure("key_share", top=2)(Adder(scale=9.0, memory=6.0), MODULAR, 0)
    logits = Adder(scale=9.0, memory=6.0)(MODULAR.table().inputs)[:, -1].view(13, 13, 13)
    expected = fourier.sum_spectrum(logits).sort().values[-2:].sum()
    assert mixed.sel(quantity="share").item() == pytest.approx(expected.item()) and mixed.sel(quantity="count") == 2
    assert measure("key_share")(Adder(1, 1), MODULAR, 0).sel(quantity="share") < mixed.sel(quantity="share")


def adding(seed: int = 1) -> Transformer:
    return Transformer(ModelConfig(**MODULAR.preset().model), seed=seed)


def test_neurons_that_are_waves_of_one_frequency():
    model = adding()
    residue = torch.arange(13)
    with torch.no_grad():
        # Even attention to embeddings of one frequency, and neurons so far up that they never switch off.
        model.blocks[0].attn.W_Q.zero_()
        model.embed.W_E.zero_()
        model.embed.W_E[:13, 0] = torch.cos(2 * math.pi * 3 / 13 * residue)
        model.embed.W_E[:13, 1] = torch.sin(2 * math.pi * 3 / 13 * residue)
        model.blocks[0].mlp.b_in.fill_(50.0)
    found = measure("neuron_frequencies")(model, MODULAR, 0)
    assert found.sel(quantity="explained") == 1 and found.sel(quantity="mean").item() == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        # A second frequency, as strong, takes half of each; and neurons that never switch on are not explained.
        model.embed.W_E[:13, 2] = torch.cos(2 * math.pi * 5 / 13 * residue)
        model.embed.W_E[:13, 3] = torch.sin(2 * math.pi * 5 / 13 * residue)
        model.blocks[0].mlp.b_in[:32] = -50.0
    found = measure("neuron_frequencies")(model, MODULAR, 0)
    assert found.sel(quantity="explained") < 0.2 and 0.5 < found.sel(quantity="mean") < 0.8
    low = measure("neuron_frequencies", threshold=0.4)(model, MODULAR, 0)
    assert low.sel(quantity="explained").item() == pytest.approx(96 / 128)


def test_embedding_losses_are_those_of_a_model_with_another_embedding():
    model = adding()
    found = measure("embedding_losses", threshold=0.17)(model, MODULAR, 0)
    keys = [int(key) for key in found.attrs["frequencies"].split(", ")]
    assert 0 < len(keys) < 6
    table = MODULAR.table()
    groups = MODULAR.groups(table)
    whole = model.W_E.detach()[:13]
    kept = fourier.restricted_embedding(whole, keys)
    others = fourier.restricted_embedding(whole, [k for k in range(1, 7) if k not in keys])
    for name, rows in (("full", whole), ("restricted", kept), ("excluded", others)):
        other = deepcopy(model)
        with torch.no_grad():
            other.embed.W_E[:13] = rows
            loss = MODULAR.loss(other(table.inputs), table)
        for group, mask in groups.items():
            expected = loss[mask].mean().item()
            assert found.sel(embedding=name, group=group).item() == pytest.approx(expected, abs=1e-5), (name, group)
    full = measure("progress_losses")(model, MODULAR, 0).sel(logits="full").values
    assert found.sel(embedding="full").values == pytest.approx(full, abs=1e-5)


@pytest.mark.parametrize("name", ["sum_spectrum", "key_share", "neuron_frequencies", "embedding_losses"])
def test_of_modular_addition_only(name: str):
    model = Transformer(ModelConfig(**Induction().preset().model))
    with pytest.raises(UnsupportedError, match="defined for modular addition, and the task is 'induction'"):
        measure(name)(model, Induction(), 0)
