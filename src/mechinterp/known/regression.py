"""Linear regression at its optimum: linear attention written by hand to do one exact step of gradient descent.

Positions hold (x, y), the last one the query (x, 0). The residual stream, before it is concealed, is
`[x | y | output]`::

    layer 0   q: x times rate / N     k: x     v: y -> output
    values    output

so the output at the query is `rate / N * sum_i (x_query . x_i) y_i`: the prediction after one step from w = 0 on the
examples' mean squared error / 2. Among all layers of linear attention this one, at the best rate, has the least error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Batch, Circuit, ConfigError, Pair, UnsupportedError, generator, suggest
from mechinterp.known.ground_truth import WAYS, KnownModel, conceal
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

_CORRUPTIONS = ("weights", "query")


def gradient_step_model(
    dim: int = 5,
    pairs: int = 10,
    rate: float | None = None,
    rotate: bool = True,
    inert_heads: int = 0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> KnownModel:
    """One gradient step, four edges, rotated and padded with inert heads.

    Args:
        dim: d, features of an x.
        pairs: N, examples before the query.
        rate: Of the step; None for the best, 1 / (1 + (d + 1) / N), whose expected squared error is
            d (d + 1) / (N + d + 1).
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        inert_heads: Heads beside the true one; they read everything and write where nothing reads.
        dtype: float64 where exactness is asserted.
        seed: Of the rotation, the inert weights and the place of the true head.

    Source: von Oswald et al. 2023, proposition 1; the rate from Ahn et al. 2023.

    >>> made = gradient_step_model()
    >>> round(gradient_step(made.model, pairs=10).cosine, 9)
    1.0
    >>> [str(edge) for edge in made.circuit]
    ['input->L0.H0.q', 'input->L0.H0.k', 'input->L0.H0.v', 'L0.H0->logits']
    """
    rate = best_rate(dim, pairs) if rate is None else rate
    model, moved = conceal(_plain(dim, pairs, rate, dtype), inert_heads, rotate, seed)
    edges = {name: moved(f"input->L0.H0.{name}") for name in "qkv"} | {"write": moved("L0.H0->logits")}
    circuit, changed = Circuit(edges.values()), {"weights": "v", "query": "q"}

    def visible(ablation: str, corruption: str) -> Circuit:
        # Another w changes no x, and another query no example, so by resampling k is never seen.
        return Circuit([edges[changed[corruption]], edges["write"]]) if ablation == "resample" else circuit

    def pair(batch: int = 64, seed: int = 0, corruption: str = "weights") -> Pair:
        return _pair(dim, pairs, batch, seed, corruption)

    exams = {(ablation, kind, way): visible(ablation, kind) for ablation, way in WAYS for kind in _CORRUPTIONS}
    return KnownModel(model, circuit, pair, exams, metric="mse")


def _plain(dim: int, pairs: int, rate: float, dtype: torch.dtype) -> Transformer:
    """The true head alone, every variable on its own axes."""
    output = dim + 1
    config = ModelConfig(
        n_layers=1, n_heads=1, d_model=dim + 2, d_head=dim, n_ctx=pairs + 1, inputs="vectors", d_in=dim + 1,
        outputs="values", d_out=1, positions="none", normalization="none", attention="linear", attn_bias=False,
    )  # fmt: skip
    model = Transformer(config).to(dtype)
    attn = model.blocks[0].attn
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        eye = torch.eye(dim, dtype=dtype)
        attn.W_Q[0, :dim] = eye * (rate / pairs * math.sqrt(dim))
        attn.W_K[0, :dim] = eye
        attn.W_V[0, dim, 0] = 1
        attn.W_O[0, 0, output] = 1
        model.embed.W_E.copy_(torch.eye(dim + 1, dim + 2, dtype=dtype))
        model.unembed.W_U[output] = 1
    return model


def best_rate(dim: int, pairs: int) -> float:
    """The rate of one gradient step with the least expected error, 1 / (1 + (d + 1) / N)."""
    return 1 / (1 + (dim + 1) / pairs)


@dataclass(frozen=True, eq=False)
class GradientStep:
    """A layer of linear attention, compared with one gradient step at the best rate.

    Args:
        matrix: The part of the prediction that a gradient step has is `x_query . matrix . mean_i(y_i x_i)`, and there
            it is the rate times the identity. `[dim, dim]`.
        rate: Mean of its diagonal.
        best_rate: What that is for the best step.
        cosine: Of the matrix with the identity; blind to every other term of the prediction.
        agreement: Cosine of the predictions, all terms, with those of the best step on 8,192 sequences.
    """

    matrix: Float[Tensor, "dim dim"]
    rate: float
    best_rate: float
    cosine: float
    agreement: float


@torch.no_grad()
def gradient_step(model: Transformer, pairs: int, seed: int = 0) -> GradientStep:
    """How far a model of one linear-attention layer is from one gradient step.

    Args:
        model: One layer of linear attention that reads (x, y) and writes one value.
        pairs: N, examples before the query.
        seed: Of the sequences whose predictions are compared.

    Raises:
        UnsupportedError: If the model has anything else (norm, MLP, positions, biases, a readout).

    Source: von Oswald et al. 2023, who compare trained weights and predictions so.
    """
    _check(model)
    dim, attn = model.config.features_in - 1, model.blocks[0].attn
    embed, read = model.W_E.double(), model.W_U.double()[:, 0]
    query, key, value = (embed @ weight.double() for weight in (attn.W_Q, attn.W_K, attn.W_V))
    scores = torch.einsum("had,hjd->haj", query, key)[:, :dim] * attn.scale
    written = torch.einsum("hkd,hdm,m->hk", value, attn.W_O.double(), read)
    # x_i y_i enters twice: x by the key and y by the value, and y by the key and x by the value.
    matrix = torch.einsum("haj,h->aj", scores[..., :dim], written[:, dim])
    matrix = pairs * (matrix + torch.einsum("ha,hj->aj", scores[..., dim], written[:, :dim]))
    cosine = float(matrix.trace() / (matrix.norm() * math.sqrt(dim)))
    batch = _pair(dim, pairs, 8192, seed, "weights").clean.to(model.device, model.dtype)
    ours, x = model(batch.inputs)[:, -1, 0], batch.inputs[..., :dim]
    theirs = (x[:, -1] * (x * batch.inputs[..., dim:]).sum(1)).sum(-1)
    agreement = float(ours @ theirs / (ours.norm() * theirs.norm()))
    return GradientStep(matrix, float(matrix.diagonal().mean()), best_rate(dim, pairs), cosine, agreement)


def _check(model: Transformer) -> None:
    config = model.config
    wanted = dict(n_layers=1, inputs="vectors", d_out=1, positions="none", normalization="none", attention="linear")
    wanted |= dict(attn_bias=False, d_mlp=0, readout_layers=0)
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise UnsupportedError(
                f"one layer of linear attention is compared, with {name}={value!r}; this model has "
                f"{name}={getattr(config, name)!r}"
            )


def _pair(dim: int, pairs: int, batch: int, seed: int, corruption: str) -> Pair:
    """The same x with another w, or another query."""
    if corruption not in _CORRUPTIONS:
        raise ConfigError(f"no corruption '{corruption}'.{suggest(corruption, _CORRUPTIONS)}")
    draw = generator(seed, "handmade", "regression", corruption)
    x, w = (torch.randn(2, batch, count, dim, dtype=torch.float64, generator=draw) for count in (pairs + 1, 1))
    if corruption == "weights":
        x[1] = x[0]
    else:
        x[1, :, :-1], w[1] = x[0, :, :-1], w[0]
    answers = (x * w).sum(-1, keepdim=True)
    inputs = torch.cat([x, answers], -1)
    inputs[:, :, -1, -1] = 0
    scored = torch.zeros(batch, pairs + 1, dtype=torch.bool)
    scored[:, -1] = True
    roles = {"query": torch.full((batch,), pairs)}
    clean, corrupted = (Batch(inputs[i], answers[i], scored, answers[1 - i], roles) for i in range(2))
    return Pair(clean, corrupted)
