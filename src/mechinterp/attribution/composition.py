"""Q-, K- and V-composition: how much of what a head writes the weights of a later head read."""

from __future__ import annotations

import torch
import xarray as xr
from einops import rearrange
from torch import Tensor

from mechinterp.attribution.weights import HeadWeights, centre, folded_weights
from mechinterp.core import UnsupportedError, generator, labelled
from mechinterp.core.memo import remembered
from mechinterp.models import Transformer


def composition(model: Transformer, draws: int = 200, seed: int = 0) -> xr.Dataset:
    """Composition of every head with every later head's q, k and v, beside what random weights give.

    Args:
        model: Two layers or more.
        draws: Random pairs of heads that make the null.
        seed: Of these draws.

    Returns:
        `composition` [edge]: `||W_A W_B||_F / (||W_A||_F ||W_B||_F)` with `W_A` the writer's OV matrix and `W_B` the
        reader's QK matrix (edge ends in `.q`), its transpose (`.k`) or OV matrix (`.v`); in [0, 1]. `z` [edge]: how
        many of the null's deviations it lies above `null_mean`; `null_mean` and `null_sd` have no dimension.

    Raises:
        UnsupportedError: If the model has one layer.

    Source: Elhage et al. 2021. The null are factors of the same shapes and rank d_head with independent normal
    entries, read through the same centring. Gains and centring of the norms are folded into what reads; with rotary
    positions W_QK is the one at distance 0.
    """
    config = model.config
    if config.n_layers < 2:
        raise UnsupportedError("composition is between layers, and this model has one")
    scores, edges = _all_pairs(folded_weights(model))
    key = ("random heads", config, draws, seed)
    null = remembered("draws", key, lambda: _random_pairs(model, draws, seed))  # the same along training
    mean, deviation = float(null.mean()), float(null.std())
    coords = {"edge": edges}
    parts = {
        "composition": labelled(scores, ["edge"], coords),
        "z": labelled((scores - mean) / deviation, ["edge"], coords),
        "null_mean": labelled(torch.tensor(mean), []),
        "null_sd": labelled(torch.tensor(deviation), []),
    }
    return xr.Dataset(parts, attrs={"draws": draws, "seed": seed, **parts["z"].attrs})


def composition_score(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """`||A B|| / (||A|| ||B||)` in Frobenius norm for low-rank `A = a0 a1`, `B = b0 b1`; leading axes broadcast.

    Args:
        a: Factors `[..., d_model, d_head]` and `[..., d_head, d_model]`.
        b: Likewise.
    """
    # Q of a QR decomposition changes no Frobenius norm, so the outer factors shrink to d_head x d_head.
    a0, b1 = torch.linalg.qr(a[0]).R, torch.linalg.qr(b[1].mT).R.mT
    a1, b0 = torch.linalg.qr(a[1].mT).R.mT, torch.linalg.qr(b[0]).R
    joint = a0 @ (a[1] @ b[0]) @ b1
    return _norm(joint) / (_norm(a0 @ a1) * _norm(b0 @ b1))


def _all_pairs(weights: HeadWeights) -> tuple[Tensor, list[str]]:
    """Scores in the graph's order of edges: by reader, then by writer."""
    layers, heads = weights.query.shape[:2]
    scores, names = [], []
    for reader in range(1, layers):
        writers = (weights.value[:reader].flatten(0, 1)[:, None], weights.output[:reader].flatten(0, 1)[:, None])
        query, key = weights.query[reader], weights.key[reader]
        views = {"q": (query, key.mT), "k": (key, query.mT), "v": (weights.value[reader], weights.output[reader])}
        table = torch.stack([composition_score(writers, view) for view in views.values()])
        scores.append(rearrange(table, "port writer head -> (head port writer)"))
        sources = [f"L{layer}.H{head}" for layer in range(reader) for head in range(heads)]
        names += [
            f"{source}->L{reader}.H{head}.{port}" for head in range(heads) for port in views for source in sources
        ]
    return torch.cat(scores), names


def _random_pairs(model: Transformer, draws: int, seed: int) -> Tensor:
    """The score of random heads. Their mean is near `1 / sqrt(d_model)`."""
    config = model.config
    draw = generator(seed, "composition", "null")
    tall = (config.d_model, config.d_head)
    v1, o1, v2, o2 = (torch.randn(draws, *tall, generator=draw, dtype=torch.float64) for _ in range(4))
    if config.normalization == "LN":
        v1, v2 = centre(v1), centre(v2)
    return composition_score((v1, o1.mT), (v2, o2.mT))


def _norm(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-1, -2)).sqrt()
