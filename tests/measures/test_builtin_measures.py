"""Built-in measures against the functions that they stand for and against answers known by hand."""

import numpy as np
import pytest
import torch

from mechinterp.attribution import copying_scores, head_scores
from mechinterp.core import ConfigError, UnsupportedError, derive_seed
from mechinterp.measures import measure, names
from mechinterp.models import ModelConfig, Transformer
from mechinterp.patching import patch_edges, patch_nodes
from mechinterp.tasks import Induction


@pytest.fixture(scope="module")
def task() -> Induction:
    return Induction(vocab=24, seq_len=20, segment=5, repeats=2)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=24, n_ctx=20, positions="rotary"), seed=1)


class Knowing(torch.nn.Module):
    """A model that puts out a reference predictor: the right answer to what its distance is."""

    def __init__(self, task: Induction, name: str) -> None:
        super().__init__()
        self.predict, self.weight = task.predictors()[name], torch.nn.Parameter(torch.zeros(1))
        self.task = task

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        batch = self.task.batch(4, 0)
        return self.predict(type(batch)(inputs, inputs, inputs >= 0))


def drawn(seed: int, name: str) -> int:
    return derive_seed(seed, "measure", name)


def test_all_built_ins_are_registered():
    wanted = {
        "accuracy", "circuit_faithfulness", "composition", "copying", "edge_effects", "head_scores", "loss", "margin",
        "node_effects", "pair_scores", "predictor_distance", "probe",
    }  # fmt: skip
    assert wanted <= set(names())


def test_loss_is_the_tasks_loss_by_group(task: Induction, model: Transformer):
    found = measure("loss", examples=16)(model, task, 3)
    batch = task.batch(16, drawn(3, "loss"))
    values = task.loss(model(batch.inputs), batch).detach()
    assert found["group"].values.tolist() == ["repeat", "fresh"] and found.sizes["example"] == 16
    by_hand = [float(values[i][batch.scored[i]].mean()) for i in range(16)]
    assert np.allclose(found.sel(group="repeat"), by_hand, atol=1e-6)


def test_the_ideal_predictor_has_known_loss_accuracy_and_distance(task: Induction):
    ideal = Knowing(task, "one_token_match")
    assert float(measure("loss")(ideal, task).sel(group="repeat").mean()) < 0.01
    assert float(measure("accuracy")(ideal, task).sel(group="repeat").mean()) == 1.0
    assert float(measure("margin")(ideal, task).sel(group="repeat").min()) > 5
    distance = measure("predictor_distance")(ideal, task).mean("example")
    assert float(distance.sel(predictor="one_token_match")) == pytest.approx(0, abs=1e-5)
    assert float(distance.sel(predictor="uniform")) == pytest.approx(np.log(24), abs=0.02)
    assert str(distance.idxmin().values) == "one_token_match"


def test_uniform_model_is_at_distance_zero_from_uniform(task: Induction):
    distance = measure("predictor_distance")(Knowing(task, "uniform"), task).mean("example")
    assert float(distance.sel(predictor="uniform")) == pytest.approx(0, abs=1e-6)
    assert float(measure("loss")(Knowing(task, "uniform"), task).mean()) == pytest.approx(np.log(24), abs=1e-5)


def test_attribution_measures_equal_their_functions(task: Induction, model: Transformer):
    assert np.array_equal(
        measure("head_scores", examples=8)(model, task, 2),
        head_scores(model, task.batch(8, drawn(2, "head_scores"))),
    )
    copied = copying_scores(model, permutations=5, seed=drawn(2, "copying"))
    assert np.allclose(
        measure("copying", quantity="z", permutations=5)(model, task, 2), copied["z"].sel(score="eigenvalue")
    )
    assert measure("composition", draws=5)(model, task).sizes == {"edge": 2 * 2 * 3}


def test_causal_measures_equal_their_functions(task: Induction, model: Transformer):
    edges = measure("edge_effects", examples=6)(model, task, 2)
    assert np.array_equal(edges, patch_edges(model, task.pair(6, drawn(2, "edge_effects")))["effect"])
    nodes = measure("node_effects", examples=6, site="resid_pre")(model, task, 2)
    pair = task.pair(6, drawn(2, "edge_effects"))
    assert np.array_equal(nodes, patch_nodes(model, pair, site="resid_pre", at="role")["effect"], equal_nan=True)


def test_whole_model_is_faithful_and_the_empty_circuit_is_not(task: Induction, model: Transformer):
    every = [str(edge) for edge in model.config.graph().edges]
    for edges, share in ((every, 1.0), ([], 0.0)):
        found = measure("circuit_faithfulness", edges=edges, examples=64)(model, task).mean("example")
        assert float(found.sel(quantity="circuit")) == pytest.approx(
            float(found.sel(quantity="full" if share else "empty")), abs=1e-5
        )
        value = float(found.sel(quantity="faithfulness"))
        assert np.isnan(value) or value == pytest.approx(share, abs=1e-4)
    runs = measure("pair_scores", examples=8)(model, task)
    assert runs["run"].values.tolist() == ["clean", "corrupted"]


def test_probe_measure_keeps_its_nulls(task: Induction, model: Transformer):
    found = measure("probe", target="is_repeat", examples=64)(model, task)
    assert found.dims == ("estimate", "layer") and found.sizes["layer"] == 2
    assert np.isfinite(found.sel(estimate=["score", "untrained", "shuffled"])).all()


def test_models_are_left_as_they_were(task: Induction, model: Transformer):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    measure("loss")(model, task)
    measure("edge_effects", examples=4)(model, task)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_a_task_lacks_is_explained(model: Transformer):
    class Bare(Induction):
        name = "bare-induction-for-measures"
        repeats: int = 2

        def predictors(self):
            return {}

    with pytest.raises(UnsupportedError, match=r"measure 'predictor_distance' cannot be taken here: .* no reference"):
        measure("predictor_distance")(model, Bare(vocab=24, seq_len=20, segment=5))
    with pytest.raises(ConfigError, match="no quantity 'zz'"):
        measure("copying", quantity="zz")(model, Bare(vocab=24, seq_len=20, segment=5))
