"""Measures against theory: known losses and divergences, progress losses of a model that adds by hand."""

import math

import numpy as np
import pytest
import torch

from mechinterp.attribution import fourier
from mechinterp.core import Batch, UnsupportedError
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, MarkovChains, ModularAddition

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


class Predicting(torch.nn.Module):
    """A model that puts out a predictor."""

    def __init__(self, task: MarkovChains, name: str) -> None:
        super().__init__()
        self.weight, self.predict = torch.nn.Parameter(torch.zeros(1)), task.predictors()[name]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.predict(Batch(inputs, inputs, inputs >= 0)) + self.weight


@pytest.mark.parametrize("name", ["uniform", "unigram", "bigram"])
def test_the_nearest_predictor_is_the_one_that_the_model_is(name: str):
    found = measure("nearest_predictor")(Predicting(MarkovChains(), name), MarkovChains(), 1)
    assert {str(one): float(found.sel(predictor=one)) for one in found["predictor"].values} == {
        one: float(one == name) for one in ("uniform", "unigram", "bigram", "oracle")
    }


def test_the_nearest_of_some_predictors():
    task = MarkovChains()
    found = measure("nearest_predictor", predictors=["unigram", "uniform"])(Predicting(task, "bigram"), task, 1)
    assert found["predictor"].values.tolist() == ["unigram", "uniform"]
    assert found.values.tolist() == [1.0, 0.0]
    with pytest.raises(UnsupportedError, match="trigram"):
        measure("nearest_predictor", predictors=["trigram"])(Predicting(task, "bigram"), task, 1)


def test_predictor_loss_of_a_model_that_is_the_bigram():
    task = MarkovChains()
    model = Predicting(task, "bigram")
    truth = measure("predictor_loss", truth="oracle", examples=400)(model, task, 1).mean("example")
    assert truth["forecaster"].values.tolist() == ["model", "uniform", "unigram", "bigram", "oracle"]
    assert float(truth.sel(forecaster="model")) == pytest.approx(float(truth.sel(forecaster="bigram")), abs=1e-6)
    assert float(truth.sel(forecaster="bigram")) == pytest.approx(0.0675, abs=0.006)
    assert float(truth.sel(forecaster="oracle")) == pytest.approx(0, abs=1e-7)
    # The loss is the chain's entropy and the divergence, up to sampling.
    loss = measure("predictor_loss", examples=400)(model, task, 1).mean("example")
    excess = loss - loss.sel(forecaster="oracle")
    assert np.allclose(excess, truth, atol=0.01)
    assert float(loss.sel(forecaster="uniform")) == pytest.approx(math.log(3), abs=1e-6)


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


def test_what_a_measure_needs_it_says():
    model = Transformer(ModelConfig(**Induction().preset().model))
    with pytest.raises(UnsupportedError, match="defined for modular addition, and the task is 'induction'"):
        measure("sum_spectrum")(model, Induction(), 0)
    with pytest.raises(UnsupportedError, match="has no predictor 'orcale'"):
        measure("predictor_loss", truth="orcale")(model, MarkovChains(), 0)


def test_the_table_is_read_in_order():
    """Residues a and b are not interchanged: a model that answers a alone has no structure in a + b."""

    class First(Adder):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(inputs[:, :1], 13).float().expand(-1, 3, -1) + self.weight

    assert float(measure("sum_spectrum")(First(1, 1), MODULAR, 0).sum()) == pytest.approx(0, abs=1e-6)
    assert fourier.key_frequencies(torch.eye(13)[:, None].expand(13, 13, 13)) == []
