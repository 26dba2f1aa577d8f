"""Fourier structure: known spectra, restricted and excluded parts that add up, clock against pizza by hand."""

import math

import pytest
import torch

from mechinterp.attribution import fourier
from mechinterp.core import ConfigError, ShapeError
from mechinterp.models import ModelConfig, Transformer

P = 13


def clock(weights: dict[int, float], p: int = P) -> torch.Tensor:
    """Logits `sum of weight * cos w (a + b - c)`: what a model of these frequencies writes."""
    residue = torch.arange(p, dtype=torch.float64)
    turn = residue[:, None, None] + residue[:, None] - residue
    return sum(weight * (2 * math.pi * k / p * turn).cos() for k, weight in weights.items())  # type: ignore[return-value]


def test_spectrum_of_known_logits():
    spectrum = fourier.sum_spectrum(clock({2: 3.0, 5: 4.0}))
    torch.testing.assert_close(
        spectrum, torch.tensor([0, 9 / 25, 0, 0, 16 / 25, 0], dtype=torch.float64), atol=1e-12, rtol=0
    )
    # What softmax ignores and what is a bias does not count.
    shifted = clock({2: 3.0, 5: 4.0}) + torch.randn(P, P, 1) * 10 + torch.randn(P) * 10
    torch.testing.assert_close(fourier.sum_spectrum(shifted), spectrum, atol=1e-6, rtol=0)
    assert fourier.key_frequencies(shifted) == [2, 5]
    assert fourier.key_frequencies(clock({2: 1.0, 5: 10.0})) == [5]


def test_random_logits_have_the_share_of_chance_and_functions_of_the_sum_have_all():
    logits = torch.randn(P, P, P, generator=torch.Generator().manual_seed(0))
    assert float(fourier.sum_spectrum(logits).mean()) == pytest.approx(2 / (P * P - 1), rel=0.25)
    table = torch.randn(P, P)
    residue = torch.arange(P)
    assert float(fourier.sum_spectrum(table[(residue[:, None] + residue) % P]).sum()) == pytest.approx(1, abs=1e-6)
    # Of the difference a - b instead of the sum, nothing is left.
    assert float(fourier.sum_spectrum(table[(residue[:, None] - residue) % P]).sum()) == pytest.approx(0, abs=1e-6)


def test_restricted_and_excluded_logits_part_the_whole():
    a, b = clock({2: 3.0}), clock({5: 4.0})
    bias, noise = torch.randn(P).double(), torch.randn(P, P, P).double()
    torch.testing.assert_close(fourier.restricted_logits(a + b + bias, [2]), a + bias)
    torch.testing.assert_close(fourier.excluded_logits(a + b + bias, [2]), b + bias)
    torch.testing.assert_close(fourier.restricted_logits(a + b + bias, []), bias.expand(P, P, P))
    whole = a + noise
    parts = fourier.restricted_logits(whole, [1, 2]) + fourier.excluded_logits(whole, [1, 2])
    torch.testing.assert_close(parts, whole + whole.mean((0, 1)))
    assert fourier.restricted_logits(whole.float(), [1]).dtype == torch.float32


def test_errors_name_the_frequency_and_the_shape():
    with pytest.raises(ConfigError, match="no frequency 7: modulo 13 they are 1 to 6"):
        fourier.restricted_logits(torch.randn(P, P, P), [7])
    with pytest.raises(ShapeError, match=r"\[p, p, p\] with an odd p, got \[4, 4, 4\]"):
        fourier.sum_spectrum(torch.randn(4, 4, 4))


def test_symmetric_models_have_gradient_symmetricity_one():
    """With even attention and no positions, a and b enter as their sum: the pizza's limit, whatever the MLP does."""
    model = Transformer(
        ModelConfig(
            n_layers=1,
            n_heads=2,
            d_model=16,
            d_mlp=8,
            d_vocab=8,
            d_vocab_out=7,
            n_ctx=3,
            positions="none",
            normalization="none",
            attn_bias=False,
        )
    )
    inputs = torch.tensor([[1, 5, 7], [2, 3, 7]])
    answers = torch.tensor([3, 6])
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
    torch.testing.assert_close(fourier.gradient_symmetricity(model, inputs, answers), torch.ones(2))
    with torch.no_grad():
        model.blocks[0].attn.W_Q.normal_(std=1.0, generator=torch.Generator().manual_seed(0))
    # Against gradients by finite differences, in double precision.
    model = model.double()
    found = fourier.gradient_symmetricity(model, inputs, answers)
    step, gradient = 1e-5, torch.zeros(2, 2, 16, dtype=torch.float64)
    for place in (0, 1):
        for feature in range(16):
            ends = []
            for sign in (1, -1):

                def shift(x, hook, place=place, feature=feature, sign=sign):
                    moved = x.clone()
                    moved[:, place, feature] += sign * step
                    return moved

                logits = model.run_with_hooks(inputs, fwd_hooks=[("hook_embed", shift)])
                ends.append(logits[torch.arange(2), -1, answers].detach())
            gradient[:, place, feature] = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(
        found, torch.cosine_similarity(gradient[:, 0], gradient[:, 1], dim=-1), atol=1e-5, rtol=0
    )
    assert float(found.max()) < 0.999
    assert all(weight.grad is None for weight in model.parameters())


def test_the_spectrum_of_neurons():
    residue = torch.arange(P, dtype=torch.float64)
    a, b = torch.meshgrid(2 * math.pi / P * residue, 2 * math.pi / P * residue, indexing="ij")
    neurons = {
        "one circle": (3 * a).cos() + 2,
        "product": (3 * a).cos() * (3 * b).sin(),
        "sum": (3 * (a + b)).cos() - 0.3 * (3 * b).sin(),
        "two circles": (2 * a).cos() + (3 * b).sin(),
        "product of two": (2 * a).cos() * (3 * b).cos(),
        "constant": torch.ones_like(a),
    }
    found = fourier.neuron_spectrum(torch.stack(list(neurons.values()), -1))
    assert found.shape == (6, 6)
    best = dict(zip(neurons, found.T, strict=True))
    for name in ("one circle", "product", "sum"):
        assert float(best[name][2]) == pytest.approx(1, abs=1e-12) and float(best[name].sum()) == pytest.approx(1)
    assert best["two circles"][1:3].tolist() == pytest.approx([0.5, 0.5], abs=1e-12)
    assert float(best["product of two"].abs().max()) < 1e-12 and bool(best["constant"].isnan().all())


def test_restricted_embedding_keeps_waves_and_mean():
    residue = torch.arange(P, dtype=torch.float64)[:, None]
    wave = (2 * math.pi / P * 4 * residue + torch.rand(1, 5)).cos()
    rest = (2 * math.pi / P * 2 * residue).sin() * torch.randn(1, 5)
    mean = torch.randn(1, 5).double()
    spectrum = fourier.embedding_spectrum(wave + rest + mean)
    parts = [(part - part.mean(0)).square().sum() for part in (rest, wave)]
    assert float(spectrum.sum()) == pytest.approx(1) and spectrum.argmax() in (1, 3)
    assert spectrum[[1, 3]].tolist() == pytest.approx([float(part / sum(parts)) for part in parts])
    found = fourier.restricted_embedding(wave + rest + mean, [4])
    torch.testing.assert_close(found, wave + mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(fourier.restricted_embedding(wave + mean, [1]), mean.expand(P, 5), atol=1e-12, rtol=0)
    with pytest.raises(ConfigError, match="no frequency 7: modulo 13 they are 1 to 6"):
        fourier.restricted_embedding(wave, [7])
    with pytest.raises(ShapeError, match="odd number of rows, got 4"):
        fourier.restricted_embedding(torch.ones(4, 2), [1])
    with pytest.raises(ShapeError, match="odd p, got"):
        fourier.neuron_spectrum(torch.ones(13, 12, 2))
