"""Which models an analysis takes, and inputs on their device and in their type."""

import pytest
import torch

from mechinterp.core import HookedModel, RunLike, UnsupportedError
from mechinterp.interventions import as_hooked, as_transformer, on_model, placement
from mechinterp.models import ModelConfig, Transformer, to_bridge
from mechinterp.training import Run

CONFIG = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=5, n_ctx=6)


def test_our_model_and_a_bridge_have_hook_points():
    model = Transformer(CONFIG)
    for one in (model, to_bridge(model)):
        assert isinstance(one, HookedModel) and as_hooked(one) is one
    assert not isinstance(torch.nn.Linear(2, 2), HookedModel)
    with pytest.raises(UnsupportedError, match="Linear has no hook points"):
        as_hooked(torch.nn.Linear(2, 2))


def test_only_our_model_lists_edges():
    model = Transformer(CONFIG)
    assert as_transformer(model, "this needs") is model
    with pytest.raises(
        UnsupportedError, match="this needs a Transformer: a TransformerBridge lists no edges; use that"
    ):
        as_transformer(to_bridge(model), "this needs", "use that")


def test_a_run_is_run_like_also_where_its_task_is_not_known(tmp_path):
    """The look at its members must not ask for the task, which an error may answer."""
    (tmp_path / "weights").touch()
    run = Run.from_checkpoints({0: tmp_path / "weights"}, lambda path: Transformer(CONFIG))
    with pytest.raises(UnsupportedError, match="records no task"):
        _ = run.task
    assert isinstance(run, RunLike) and not isinstance(Transformer(CONFIG), RunLike)


def test_inputs_follow_the_weights(make_pair):
    pair = make_pair()
    model = Transformer(CONFIG.change(d_vocab=int(pair.clean.inputs.max()) + 1)).double()
    assert placement(model) == (torch.device("cpu"), torch.float64)
    assert on_model(torch.zeros(2), model).dtype == torch.float64
    assert on_model(torch.zeros(2, dtype=torch.long), model).dtype == torch.long
    assert torch.equal(on_model(pair, model).clean.inputs, pair.clean.inputs)
    assert torch.equal(on_model(pair.clean, model).inputs, pair.clean.inputs)
