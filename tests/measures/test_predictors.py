"""Measures against theory: known losses and divergences, progress losses of a model that adds by hand."""

import math

import numpy as np
import pytest
import torch

from mechinterp.core import Batch, UnsupportedError
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, MarkovChains


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


def test_a_model_that_knows_more_tokens_than_the_task():
    """Two more tokens take four fifths of the probability: the task's share it as before."""
    task = MarkovChains()

    class Wider(Predicting):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output = super().forward(inputs)
            return torch.cat([output, torch.full_like(output[..., :2], math.log(2.0))], -1)

    wide, narrow = Wider(task, "bigram"), Predicting(task, "bigram")
    same = [measure("predictor_distance")(model, task, 1) for model in (wide, narrow)]
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)
    assert float(abs(same[0].sel(predictor="bigram")).max()) < 1e-5
    from_truth = [
        measure("predictor_loss", truth="oracle")(model, task, 1).sel(forecaster="model") for model in (wide, narrow)
    ]
    np.testing.assert_allclose(from_truth[0] - from_truth[1], math.log(5.0), atol=1e-5)


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


def test_what_a_measure_needs_it_says():
    model = Transformer(ModelConfig(**Induction().preset().model))
    with pytest.raises(UnsupportedError, match="defined for modular addition, and the task is 'induction'"):
        measure("sum_spectrum")(model, Induction(), 0)
    with pytest.raises(UnsupportedError, match="has no predictor 'orcale'"):
        measure("predictor_loss", truth="orcale")(model, MarkovChains(), 0)
