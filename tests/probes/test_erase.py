import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mechinterp.core import ShapeError
from mechinterp.probes import leace
from mechinterp.probes.erase import random_eraser


def clustered(n=600, d=7, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randint(0, classes, (n,), generator=draw)
    mixing = torch.randn(d, d, generator=draw, dtype=torch.float64)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64) @ mixing
    return x + 2 * torch.randn(classes, d, generator=draw, dtype=torch.float64)[z], z


def test_class_means_are_equal_and_a_fresh_probe_is_at_chance():
    x, z = clustered()
    erase = leace(x, z)
    gone = erase(x)
    means = torch.stack([gone[z == c].mean(0) for c in range(3)])
    assert torch.allclose(means, means[:1].expand(3, -1), atol=1e-10)
    assert erase.rank == 2
    before = LogisticRegression(max_iter=500).fit(x, z).score(x, z)
    after = LogisticRegression(max_iter=500, tol=1e-8).fit(gone, z)
    assert before > 0.8
    assert after.score(gone, z) == pytest.approx(z.bincount().max().item() / len(z))
    assert np.abs(after.coef_).max() < 1e-3


def test_it_is_the_published_formula():
    x, z = clustered()
    onehot = torch.nn.functional.one_hot(z).double()
    centred = x - x.mean(0)
    cov, cross = centred.T @ centred / len(x), centred.T @ (onehot - onehot.mean(0)) / len(x)
    values, vectors = torch.linalg.eigh(cov)
    w, back = vectors @ torch.diag(values**-0.5) @ vectors.T, vectors @ torch.diag(values**0.5) @ vectors.T
    wanted = x - centred @ (back @ (w @ cross) @ torch.linalg.pinv(w @ cross, rtol=1e-10) @ w).T
    assert torch.allclose(leace(x, z)(x), wanted, atol=1e-9)


def test_it_changes_less_than_projecting_the_mean_differences_away():
    x, z = clustered()
    means = torch.stack([x[z == c].mean(0) for c in range(3)])
    q = torch.linalg.qr((means - x.mean(0)).T[:, :2]).Q
    orthogonal = x - (x - x.mean(0)) @ q @ q.T
    # Both erase; least squares is what sets LEACE apart.
    assert (leace(x, z)(x) - x).square().sum() < (orthogonal - x).square().sum()


def test_erasing_twice_changes_nothing_more():
    x, z = clustered()
    erase = leace(x, z)
    assert torch.allclose(erase(erase(x)), erase(x), atol=1e-10)
    assert torch.allclose(leace(erase(x), torch.zeros_like(z))(x), x)


def test_real_values_are_uncorrelated_afterwards():
    x, _ = clustered()
    z = x[:, :2] @ torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64) + 0.1
    erase = leace(x, z)
    gone = erase(x)
    assert erase.rank == 2
    assert torch.allclose((gone - gone.mean(0)).T @ (z - z.mean(0)) / len(x), torch.zeros(7, 2).double(), atol=1e-10)


def test_directions_without_variance_stay(generator):
    x, z = clustered()
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    wide = torch.cat([x, torch.full((len(x), 5), 3.0, dtype=torch.float64)], 1) @ basis
    gone = leace(wide, z)(wide) @ basis.T
    assert torch.allclose(gone[:, 7:], torch.full((len(x), 5), 3.0, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(gone[:, :7], leace(x, z)(x), atol=1e-8)


def test_a_random_eraser_removes_as_much_and_leaves_the_variable():
    x, z = clustered(d=20)
    erase = random_eraser(x, 2, seed=1)
    gone = erase(x)
    assert int(torch.linalg.matrix_rank(gone - gone.mean(0), rtol=1e-9)) == 18
    assert torch.allclose(erase(gone), gone, atol=1e-10)
    assert LogisticRegression(max_iter=500).fit(gone, z).score(gone, z) > 0.8
    assert not torch.allclose(random_eraser(x, 2, seed=2)(x), gone)


def test_single_precision_in_single_precision_out():
    x, z = clustered()
    assert leace(x.float(), z)(x.float()).dtype == torch.float32
    assert leace(x.float(), z).rank == 2


def test_lengths_must_agree():
    x, z = clustered()
    with pytest.raises(ShapeError, match="600 activations and 5 labels"):
        leace(x, z[:5])


def test_directions_that_only_round_are_not_whitened():
    """One-hot columns sum to one: their fourth direction is rounding, of many rows in float64."""
    labels = torch.arange(4096) % 4
    x = torch.cat([torch.nn.functional.one_hot(labels, 4), (labels[:, None] * 7 % 3)], 1).double() / 3
    for rows in (256, 1000, 4096):
        eraser = leace(x[:rows], labels[:rows])
        assert eraser.rank == 3 and eraser.matrix.abs().max() < 10
