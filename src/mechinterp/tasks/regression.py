"""In-context linear regression: one layer of linear attention can do one exact step of gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mechinterp.core import Batch, Pair, generator, normal
from mechinterp.tasks.base import ALL, Predictor, Preset, Task

_SMALLEST = 1e-6


class Regression(Task):
    """Pairs (x, y = w.x + noise) and one more x; predict its w.x, for a w of the sequence's own.

    All features of x and w are N(0, 1). A position holds x and y together, the query's y is 0. One sequence of
    `dim=2, pairs=3`::

        position    0      1      2      3
        input     x0 y0  x1 y1  x2 y2  x3 0
        target      .      .      .    w.x3
        scored      .      .      .      *       the query

    Pairs have the role `query`. The corruptions::

        weights     another w: all y change, no x does
        query       another x at the query, nothing else changes

    Targets at positions that are not scored are the y that stand there.

    Args:
        dim: d, features of an x.
        pairs: N, examples before the query.
        noise: Standard deviation of the examples' y; the query's target has none.

    Source: von Oswald et al. 2023; the optimum of one linear-attention layer is in Ahn et al. 2023 and Zhang et al.
    2024. Differs: the target is scored without noise.

    >>> task = Regression(dim=2, pairs=3)
    >>> batch = task.batch(4, seed=0)
    >>> batch.inputs.shape, batch.scored[0].tolist()
    (torch.Size([4, 4, 3]), [False, False, False, True])
    >>> task.least_error    # of one step; d (d + 1) / (N + d + 1) without noise
    1.0
    """

    name: ClassVar[str] = "regression"
    corruptions: ClassVar[tuple[str, ...]] = ("weights", "query")
    trivial = ("zero",)

    dim: int = Field(5, ge=1, description="features of an x")
    pairs: int = Field(10, ge=1, description="examples before the query")
    noise: float = Field(0.0, ge=0, description="standard deviation of the examples' y")

    @property
    def seq_len(self) -> int:
        """Positions: the examples, then the query."""
        return self.pairs + 1

    @property
    def rate(self) -> float:
        """The best rate of one gradient step from 0 on the examples' mean squared error / 2.

        1 / (1 + (d + 1 + noise^2) / N), since E[S^2] = (1 + (d + 1) / N) I for S, the mean of x x^T.
        """
        return 1 / (1 + (self.dim + 1 + self.noise**2) / self.pairs)

    @property
    def least_error(self) -> float:
        """Expected squared error of that step: d (1 - rate)."""
        return self.dim * (1 - self.rate)

    @property
    def latents(self) -> Mapping[str, int | None]:
        """`weight_1`, `weight_2`, ...: the sequence's w, the same at all positions."""
        return {f"weight_{i + 1}": None for i in range(self.dim)}

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; the query is scored."""
        x, w, noise = self._draw(batch, generator(seed, self.name, "batch"))
        return self._batch(x, w, noise)

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins that have another w, or another query.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `weights` or `query`, or `all` mixed.

        Raises:
            ConfigError: If the corruption is unknown.
        """
        gen = generator(seed, self.name, "pair")
        x, w, noise = self._draw(batch, gen)
        other_x, other_w, _ = self._draw(batch, gen)
        if corruption == "weights":
            other_x = x
        else:
            other_x, other_w = torch.cat([x[:, :-1], other_x[:, -1:]], 1), w
        clean, twin = self._batch(x, w, noise), self._batch(other_x, other_w, noise)
        roles = {"query": torch.full((batch,), self.pairs)}
        return Pair(replace(clean, wrong=twin.targets, roles=roles), replace(twin, wrong=clean.targets, roles=roles))

    def predictors(self) -> dict[str, Predictor]:
        """What the pairs before each position say of its x, `[batch, seq, 1]`.

        `zero`. `one_step`: one gradient step from w = 0 at the best rate, all a linear-attention layer can do. `ridge`:
        the posterior mean of w, the best of all. `least_squares`: the smallest w that fits best; without noise it is
        the same as `ridge`, and exact once the pairs are as many as the features.
        """
        return {
            "zero": _Scaled(0.0),
            "one_step": _Scaled(self.rate / self.pairs),
            "ridge": _Solved(self.noise**2),
            "least_squares": _Solved(0.0),
        }

    def preset(self) -> Preset:
        """One head of linear attention on inputs that enter as they are, without norm, positions or biases.

        Attention weights are q.k / N, so that what is to be learnt has the size of the rate. Seen on three fresh seeds:
        the error starts at 4-11 times the least, is within 5% of it by step 600 (one seed rests near 4 until 300), and
        0.2-0.5% above it at the end; there the matrix's cosine with the gradient step is at least 0.9997, that of the
        predictions at least 0.998. With batches of 1,024 and 1,500 steps: 0.2-0.3%, 0.9998, 0.9994.
        """
        width = self.dim + 1
        model = dict(
            n_layers=1, n_heads=1, d_model=width, n_ctx=self.seq_len, inputs="vectors", d_in=width, outputs="values",
            d_out=1, embedding="fixed", positions="none", normalization="none", attention="linear",
            attn_scale=width**0.5 / self.pairs, attn_bias=False,
        )  # fmt: skip
        training = dict(batch_size=256, steps=3000, lr=1e-2, beta1=0.9, beta2=0.999, lr_schedule="linear")
        return Preset(model, training)

    def _draw(self, batch: int, gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw x `[batch, seq, dim]`, w `[batch, dim]`, and noise `[batch, pairs]` where there is any."""
        draws = normal(gen, batch, self.seq_len + 1, self.dim)
        noise = normal(gen, batch, self.pairs) * self.noise if self.noise else None
        return draws[:, :-1], draws[:, -1], noise

    def _batch(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Batch:
        y = x @ w[..., None]
        if noise is not None:
            y[:, :-1, 0] += noise
        inputs = torch.cat([x, y], 2)
        inputs[:, -1, -1] = 0
        scored = torch.tensor([False] * self.pairs + [True]).repeat(len(x), 1)
        # One number per sequence, seen at every position: views, so they cost nothing while training.
        weights = w[..., None].expand(-1, -1, self.seq_len).unbind(1)
        return Batch(inputs, y, scored, latents=dict(zip(self.latents, weights, strict=True)))


@dataclass(frozen=True)
class _Scaled:
    """`x . sum(y x) * scale` over the pairs before x."""

    scale: float

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq 1"]:
        x, _, answers = _before(batch)
        return self.scale * (x * answers).sum(-1, keepdim=True)


@dataclass(frozen=True)
class _Solved:
    """`x . (sum(x x^T) + penalty I)^-1 sum(y x)` over the pairs before x; without a penalty the pseudo-inverse."""

    penalty: float

    def __call__(self, batch: Batch) -> Float[Tensor, "batch seq 1"]:
        x, gram, answers = (part.double() for part in _before(batch))
        gram = gram + self.penalty * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        inverse = torch.linalg.pinv(gram, rtol=_SMALLEST, hermitian=True)
        return (x * (inverse @ answers[..., None])[..., 0]).sum(-1, keepdim=True).to(batch.inputs)


def _before(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Take x at each position, and the sums of x x^T and of y x over the positions before it."""
    x, y = batch.inputs[..., :-1], batch.inputs[..., -1:]
    outer = x[..., :, None] * x[..., None, :]
    return x, outer.cumsum(1) - outer, (x * y).cumsum(1) - x * y
