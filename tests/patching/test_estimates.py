"""Gradient estimates: equal to the exact effect where the model is linear, and as published elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.core import METRICS, Batch, ConfigError, Pair, UnsupportedError
from mechinterp.interventions import activations, source_values
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes, pattern_gradient
from mechinterp.patching.interpolation import ESTIMATES


@pytest.fixture(scope="module")
def close(make_model):
    """Vector inputs that differ by a hair: there every smooth model is linear."""
    model = make_model(d_mlp=5, inputs="vectors", d_in=6, act_fn="gelu")
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(4, 9, 6, generator=g, dtype=torch.float64)
    other = clean + 1e-6 * torch.randn(4, 9, 6, generator=g, dtype=torch.float64)
    targets, wrong = (torch.randint(20, (4, 9), generator=g) for _ in range(2))
    scored = torch.zeros(4, 9, dtype=torch.bool)
    scored[:, 3:5] = True
    return model, Pair(*(Batch(inputs, targets, scored, wrong) for inputs in (clean, other)))


@pytest.mark.parametrize("method", ESTIMATES)
@pytest.mark.parametrize("inputs", ["merged", "split"])
def test_edges_agree_with_exact_effects_where_all_is_linear(close, method, inputs):
    exact, guess = patch_edges(*close, inputs=inputs), estimate_edges(*close, method=method, inputs=inputs)
    assert guess["effect"].dims == exact["effect"].dims and list(guess["edge"]) == list(exact["edge"])
    scale = np.abs(exact["effect"].values).max()
    np.testing.assert_allclose(guess["effect"].values, exact["effect"].values, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("site", ["z", "q", "pattern", "resid_pre", "mlp_post", "embed", "attn"])
def test_nodes_agree_with_exact_effects_where_all_is_linear(close, site, direction):
    exact = patch_nodes(*close, site=site, direction=direction)["effect"]
    guess = estimate_nodes(*close, site=site, direction=direction)["effect"]
    assert guess.dims == exact.dims
    np.testing.assert_allclose(guess.values, exact.values, rtol=0, atol=1e-4 * np.abs(exact.values).max())


def test_frozen_pattern_and_norm_make_the_gradient_exact(make_model, make_pair):
    """No norm, no MLP, pattern held: the logits are linear in every head's value input, whatever the step's size."""
    model, pair = make_model(normalization="none"), make_pair()
    values = ["L1.H0.v", "L2.H1.v", "logits"]
    names = [str(edge) for edge in model.config.graph().edges if str(edge.reader) in values]
    exact = patch_edges(model, pair, edges=names)["effect"]
    guess = estimate_edges(model, pair, method="eap")["effect"].sel(edge=names)
    last = [name for name in names if not name.endswith("L1.H0.v")]  # after layer 1 a change meets layer 2's pattern
    np.testing.assert_allclose(guess.sel(edge=last).values, exact.sel(edge=last).values, rtol=0, atol=1e-5)
    assert np.abs(exact.sel(edge=last).values).max() > 0.1


@settings(max_examples=40)
@given(st.data())
def test_every_edge_of_every_kind_of_model_is_difference_times_gradient(make_model, make_pair, architectures, data):
    """Second road: the gradient that torch gives at each fork of the stream, one reader at a time."""
    config = {**data.draw(architectures), "n_layers": 2}
    model, pair = make_model(**config), make_pair(batch=2, pad=config["pad_token"])
    graph = model.config.graph()
    clean, corrupted = (source_values(model, activations(model, b.inputs), graph) for b in (pair.clean, pair.corrupted))
    step, kept = dict(zip(graph.sources, clean - corrupted, strict=True)), {}

    def watch(value, hook):
        kept["x"] = value.detach().requires_grad_()
        return kept["x"]

    guess = estimate_edges(model, pair, method="eap", metric="logit_diff")["effect"]
    for reader in graph.readers:
        output = model.run_with_hooks(pair.clean.inputs, fwd_hooks=[(graph.input_hook(reader), watch)])
        score = METRICS["logit_diff"](output, pair.clean, None).sum()
        (grad,) = torch.autograd.grad(score, [kept["x"]], materialize_grads=True, allow_unused=True)
        grad = grad[:, :, reader.index] if grad.ndim == 4 else grad
        for source in graph.incoming(reader):
            expected = (step[source] * grad).sum((1, 2)).detach().numpy()
            actual = guess.sel(edge=f"{source}->{reader}").values
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(score.detach().abs())))


def test_eap_is_difference_times_gradient_at_the_clean_run(make_model, make_pair):
    model, pair = make_model(), make_pair()
    graph = model.config.graph()
    clean, corrupted = (source_values(model, activations(model, b.inputs), graph) for b in (pair.clean, pair.corrupted))
    kept = {}

    def watch(value, hook):
        kept["x"] = value.detach().requires_grad_()
        return kept["x"]

    output = model.run_with_hooks(pair.clean.inputs, fwd_hooks=[("blocks.1.hook_k_input", watch)])
    from mechinterp.core import METRICS

    (grad,) = torch.autograd.grad(METRICS["logit_diff"](output, pair.clean, None).sum(), [kept["x"]])
    expected = ((clean - corrupted)[1] * grad[:, :, 1]).sum((1, 2))
    actual = estimate_edges(model, pair, method="eap")["effect"].sel(edge="L0.H0->L1.H1.k").values
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-12)


def test_eap_ig_points(make_model, make_pair):
    """One step is the gradient at the corrupted run; many steps make input edges sum to the whole gap."""
    model, pair = make_model(act_fn="gelu"), make_pair(batch=2)
    once = estimate_edges(model, pair, method="eap-ig", steps=1)["effect"]
    both = estimate_edges(model, pair, method="clean-corrupted")["effect"]
    clean = estimate_edges(model, pair, method="eap")["effect"]
    np.testing.assert_allclose(((once + clean) / 2).values, both.values, atol=1e-12)
    many = estimate_edges(model, pair, method="eap-ig", steps=2000)
    from_input = [name for name in many["edge"].values if name.startswith("input->")]
    gap = (many["clean"] - many["corrupted"]).values
    np.testing.assert_allclose(many["effect"].sel(edge=from_input).sum("edge").values, gap, rtol=0.02, atol=0.02)


LINEAR = {"normalization": "none", "attention": "uniform", "positions": "learned"}


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_moving_components_are_exact_in_a_linear_model(make_model, make_pair, ablation):
    """Uniform attention, no norm, no MLP: logits are linear in every source, whatever the size of a step."""
    model, pair = make_model(**LINEAR), make_pair()
    exact = patch_edges(model, pair, ablation=ablation)["effect"].values
    for steps in (1, 4):
        guess = estimate_edges(model, pair, method="eap-ig-activations", steps=steps, ablation=ablation)["effect"]
        np.testing.assert_allclose(guess.values, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
    assert np.abs(exact).max() > 0.1


@pytest.mark.parametrize("parallel", [False, True])
def test_many_steps_sum_to_the_exact_effect_of_the_component(make_model, make_pair, parallel):
    """A known answer that no other estimate gives: all edges out of an MLP, or out of a layer's heads, at once."""
    model, pair = make_model(d_mlp=5, act_fn="gelu", parallel_blocks=parallel), make_pair(batch=3)
    effect = estimate_edges(model, pair, method="eap-ig-activations", steps=500)["effect"]
    for kind, sources in {"attn": ["L{}.H0", "L{}.H1"], "mlp": ["L{}.mlp"]}.items():
        exact = patch_nodes(model, pair, site=kind, at="all", direction="noise")["effect"]
        for layer in range(3):
            names = [source.format(layer) + "->" for source in sources]
            edges = [edge for edge in effect["edge"].values if edge.startswith(tuple(names))]
            np.testing.assert_allclose(
                effect.sel(edge=edges).sum("edge"), exact.sel(layer=layer), rtol=0.01, atol=0.003 * np.abs(exact).max()
            )


def test_one_step_of_moving_components_is_eap(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    one, eap, two = (
        estimate_edges(model, pair, method=method, steps=steps)["effect"].values
        for method, steps in (("eap-ig-activations", 1), ("eap", 1), ("eap-ig-activations", 2))
    )
    np.testing.assert_allclose(one, eap, atol=1e-12)
    assert np.abs(two - eap).max() > 0.01


def test_examples_do_not_mix(make_model, make_pair):
    model, pair = make_model(), make_pair(batch=5)
    whole = estimate_edges(model, pair, method="eap-ig", steps=3)["effect"].values
    alone = estimate_edges(model, pair[torch.tensor([2])], method="eap-ig", steps=3)["effect"].values
    np.testing.assert_allclose(whole[:, 2:3], alone, atol=1e-10)


def test_pattern_times_gradient_sums_to_the_gradient_along_the_pattern(make_model, make_pair):
    model, pair = make_model(), make_pair()
    made = pattern_gradient(model, pair.clean)
    assert made.dims == ("layer", "head", "query", "key", "example") and made.shape == (3, 2, 9, 9, 4)
    # Keys after the query carry no attention.
    assert np.abs(made.values[..., np.triu_indices(9, 1)[0], np.triu_indices(9, 1)[1], :]).max() == 0


def test_estimates_leave_no_trace(make_model, make_pair):
    model, pair = make_model(), make_pair()
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    estimate_edges(model, pair)
    estimate_nodes(model, pair)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert model.training and not any(point._forward_hooks for point in model.hook_points())


def test_frozen_weights_have_estimates_too(make_model, make_pair):
    model, pair = make_model(seed=8), make_pair()
    expected = estimate_edges(model, pair)["effect"].values
    model.requires_grad_(False)
    np.testing.assert_allclose(estimate_edges(model, pair)["effect"].values, expected, atol=1e-12)
    model.requires_grad_(True)


def test_bad_arguments_are_one_clear_line(make_model, make_pair):
    model, pair = make_model(), make_pair()
    with pytest.raises(ConfigError, match="Did you mean 'eap-ig'"):
        estimate_edges(model, pair, method="eapig")
    with pytest.raises(ConfigError, match="steps=0"):
        estimate_edges(model, pair, steps=0)
    with pytest.raises(UnsupportedError, match="Linear"):
        estimate_edges(torch.nn.Linear(1, 1), pair)
