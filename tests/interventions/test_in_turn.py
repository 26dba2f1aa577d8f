"""One analysis of a model at a time, of a model that nobody else has hooks on, on inputs that it can read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from mechinterp.attribution import head_scores
from mechinterp.core import Batch, ConfigError, Pair, ShapeError, UnsupportedError
from mechinterp.core.metrics import accuracy, kl
from mechinterp.discovery import discover
from mechinterp.interventions import check_plain
from mechinterp.known import induction_model
from mechinterp.models import ModelConfig, Transformer
from mechinterp.patching import estimate_edges, patch_edges, patch_nodes

KNOWN = induction_model(inert_heads=1)
PAIR = KNOWN.pair(8, seed=1)
CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=20, n_ctx=12)


def test_threads_on_one_model_get_what_each_gets_alone():
    alone = [call(KNOWN.model, PAIR)["effect"].values for call in (patch_nodes, estimate_edges, patch_edges)]
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, KNOWN.model, PAIR) for call in (patch_nodes, estimate_edges, patch_edges) * 4]
        together = [call.result()["effect"].values for call in calls]
    for number, values in enumerate(together):
        np.testing.assert_array_equal(values, alone[number % 3])


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("where", ["", "blocks.0", "unembed", "blocks.1.attn.hook_z"])
def test_hooks_of_others_are_refused_by_all_analyses(register, where):
    model = Transformer(CONFIG)
    handle = getattr(model.get_submodule(where), register)(lambda *_: None)
    tokens = torch.randint(20, (4, 8))
    pair = Pair(*(Batch(tokens.roll(n, 0), tokens, tokens >= 0, wrong=tokens.roll(1, 0)) for n in (0, 1)))
    for call in (patch_nodes, patch_edges, estimate_edges, discover, lambda m, p: head_scores(m, p.clean)):
        with pytest.raises(UnsupportedError, match="still has hooks on"):
            call(model, pair)
    handle.remove()
    check_plain(model)
    patch_nodes(model, pair)


def test_a_forward_pass_of_its_own_has_no_exact_effects():
    class Louder(Transformer):
        def forward(self, inputs, return_type="logits"):
            return 2 * super().forward(inputs, return_type)

    tokens = torch.randint(20, (4, 8))
    pair = Pair(*(Batch(tokens.roll(n, 0), tokens, tokens >= 0, wrong=tokens.roll(1, 0)) for n in (0, 1)))
    with pytest.raises(UnsupportedError, match="Louder has one of its own"):
        patch_edges(Louder(CONFIG), pair)


def test_analyses_work_inside_inference_mode():
    expected = estimate_edges(KNOWN.model, PAIR)["effect"]
    with torch.inference_mode():
        np.testing.assert_array_equal(estimate_edges(KNOWN.model, PAIR)["effect"], expected)


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("inputs", -1, "an input token is -1: the model knows tokens 0 to"),
        ("inputs", 99, "an input token is 99: the model knows"),
        ("targets", -1, "a target is -1: the model knows"),
        ("targets", -100, "a target is -100: the model knows"),
        ("wrong", 99, "a wrong answer is 99: the model knows"),
    ],
)
def test_tokens_out_of_range_are_refused(part, value, text):
    clean = replace(PAIR.clean, **{part: torch.full_like(getattr(PAIR.clean, part), value)})
    with pytest.raises(ShapeError, match=text):
        patch_nodes(KNOWN.model, Pair(clean, PAIR.corrupted))


def test_bytes_and_no_examples_are_refused():
    as_bytes = [replace(side, inputs=side.inputs.to(torch.uint8)) for side in (PAIR.clean, PAIR.corrupted)]
    with pytest.raises(ShapeError, match=r"an input token is of type torch\.uint8: use torch\.int64"):
        patch_edges(KNOWN.model, Pair(*as_bytes))
    with pytest.raises(ShapeError, match="the batch is empty"):
        patch_edges(KNOWN.model, PAIR[:0])


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (lambda output, batch, reference: None, "gave NoneType"),
        (lambda output, batch, reference: output.isfinite().all((1, 2)), "gave torch.bool"),
        (lambda output, batch, reference: output.numpy().mean((1, 2)), "gave ndarray"),
    ],
)
def test_a_metric_gives_real_numbers_in_a_tensor(metric, text):
    with pytest.raises(ShapeError, match=text):
        patch_nodes(KNOWN.model, PAIR, metric=metric)


def test_what_is_not_a_number_is_no_perfect_score():
    model = Transformer(CONFIG)
    tokens = torch.randint(20, (4, 8))
    pair = Pair(*(Batch(tokens.roll(n, 0), tokens, tokens >= 0, wrong=tokens.roll(1, 0)) for n in (0, 1)))
    output = torch.full((4, 8, 20), float("nan"))
    assert kl(output, pair.clean, output).isnan().all() and accuracy(output, pair.clean).isnan().all()
    assert accuracy(torch.zeros(4, 8, 20), pair.clean).isfinite().all()
    with torch.no_grad():
        model.unembed.W_U.fill_(float("nan"))
    for method in ({"method": "acdc"}, {"method": "acdc", "metric": "kl"}, {"k": 3}):
        with pytest.raises(ConfigError, match="of 4 of 4 examples is not a number"):
            discover(model, pair, **method)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype):
    model = Transformer(CONFIG).to(dtype)
    tokens = torch.randint(20, (4, 8))
    pair = Pair(*(Batch(tokens.roll(n, 0), tokens, tokens >= 0, wrong=tokens.roll(1, 0)) for n in (0, 1)))
    assert model(tokens).dtype == dtype
    for call in (patch_nodes, patch_edges, estimate_edges, discover, lambda m, p: head_scores(m, p.clean)):
        with pytest.raises(UnsupportedError, match=r"too coarse for effects: analyse model\.float\(\)"):
            call(model, pair)
    assert patch_nodes(model.float(), pair)["effect"].dtype == np.float32


def test_effects_are_those_of_the_weights_inside_autocast():
    expected = patch_edges(KNOWN.model, PAIR)["effect"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(patch_edges(KNOWN.model, PAIR)["effect"], expected)
