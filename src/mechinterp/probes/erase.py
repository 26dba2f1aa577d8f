"""Concept erasure: the smallest affine change after which no linear probe can tell a variable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mechinterp.core import ShapeError, derive_seed, generator

DRAWS = 3
"""How many shuffles, control labellings and random subspaces are averaged: where inputs take few values, one
shuffle can do well by luck."""


@dataclass(frozen=True, eq=False)
class Eraser:
    """An affine map `x -> mean + (x - mean) matrix^T`.

    Args:
        mean: `[d]`; stays where it is.
        matrix: `[d, d]`, an oblique projection.
        rank: How many directions it removes.
    """

    mean: Float[Tensor, " d"]
    matrix: Float[Tensor, "d d"]
    rank: int

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Erase; keeps dtype and device of `x`."""
        mean, matrix = self.mean.to(x), self.matrix.to(x)
        return mean + (x - mean) @ matrix.T


def leace(x: Float[Tensor, "n d"], z: Shaped[Tensor, " rows *k"]) -> Eraser:
    """The least-squares concept eraser: after it, x and z are uncorrelated, and x is changed as little as can be.

    On the data it was fitted to, class means become equal, and no linear probe with a convex loss beats a constant.

    Args:
        x: Activations.
        z: Integer classes `[n]`, or real values `[n]` or `[n, k]`.

    Returns:
        An eraser of rank at most classes - 1, or k.

    Raises:
        ShapeError: If lengths differ or there are fewer than two rows.

    Source: Belrose et al. 2023, `r(x) = x - W^+ P W (x - E[x])`, W the whitening matrix, P the orthogonal projection
    onto the columns of `W Cov(x, z)`. No shrinkage; directions in which x does not vary are left alone.
    """
    if len(x) != len(z) or len(x) < 2:
        raise ShapeError(f"{len(x)} activations and {len(z)} labels: two or more of each, equally many")
    mean, white, colour = _whitening(x)
    targets = _columns(z)
    targets = targets - targets.mean(0)
    # Columns of W Cov(x, z), in coordinates in which the covariance of x is the identity.
    cross = white.T @ (x.double() - mean).T @ targets / len(x)
    u, s, _ = torch.linalg.svd(cross, full_matrices=False)
    # Correlations below rounding are none: one-hot columns depend on each other, and a constant label has none.
    correlated = s > 1e-9 * max(float(targets.square().mean(0).max()) ** 0.5, 1e-300)
    return _remove(mean, white, colour, u[:, correlated])


def erasers_with_null(x: Float[Tensor, "n d"], labels: np.ndarray, seed: int) -> list[Eraser]:
    """LEACE of a variable first, then `DRAWS` random erasers of its rank.

    Args:
        x: Activations.
        labels: The variable there, as `leace` takes it.
        seed: Of the random ones.
    """
    true = leace(x, torch.from_numpy(labels).to(x.device))
    return [true, *(random_eraser(x, true.rank, derive_seed(seed, draw)) for draw in range(DRAWS))]


def random_eraser(x: Float[Tensor, "n d"], rank: int, seed: int = 0) -> Eraser:
    """An eraser of the same kind and rank that takes out random directions: LEACE's null.

    The directions are drawn evenly after whitening, so it removes the same share of the (whitened) variance.

    Args:
        x: Activations.
        rank: How many directions to remove; at most those in which x varies are.
        seed: Of the draw.
    """
    mean, white, colour = _whitening(x)
    draw = torch.randn(white.shape[1], rank, generator=generator(seed, "random eraser"), dtype=torch.float64)
    return _remove(mean, white, colour, torch.linalg.qr(draw.to(x.device)).Q)


def _whitening(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, `white` [d, r] with (x - mean) white of unit covariance, and `colour` [d, r], its inverse transposed."""
    mean = x.double().mean(0)
    _, s, vt = torch.linalg.svd((x.double() - mean) / len(x) ** 0.5, full_matrices=False)
    # Below this a direction is rounding: of the activations in their own type, and of the decomposition in float64.
    rounding = x.shape[1] * torch.finfo(x.dtype).eps + max(x.shape) * torch.finfo(torch.float64).eps
    varies = s > s.max() * rounding
    s, v = s[varies], vt[varies].T
    return mean, v / s, v * s


def _remove(mean: Tensor, white: Tensor, colour: Tensor, directions: Float[Tensor, "r rank"]) -> Eraser:
    """Take orthonormal directions of the whitened space out; what does not vary passes through."""
    matrix = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    return Eraser(mean, matrix - colour @ directions @ directions.T @ white.T, directions.shape[1])


def _columns(z: Tensor) -> Float[Tensor, "n k"]:
    if z.is_floating_point():
        return z.double().reshape(len(z), -1)
    _, classes = z.unique(return_inverse=True)
    return torch.nn.functional.one_hot(classes.reshape(len(z))).double()
