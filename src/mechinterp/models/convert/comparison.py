"""A converted model against its original, on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mechinterp.core import UnsupportedError, generator
from mechinterp.models.transformer import Transformer

Forward = Callable[[Tensor], Tensor]
"""From inputs `[batch, seq]` to logits at every position, or at the last ones."""
_BATCH, _LONGEST = 2, 64
_ORDINARY = 16.0
"""Logits up to this size are held to the tolerance as it is; larger ones in proportion, as rounding grows with them."""


def tolerance(dtype: torch.dtype, exact: bool = False) -> float:
    """How far log probabilities may differ.

    Args:
        dtype: Of the weights.
        exact: Whether the original computes all of its parts in the weights' type.
    """
    if dtype == torch.float64:
        return 1e-9 if exact else 1e-5
    return 1e-4 if dtype == torch.float32 else 0.1


@torch.no_grad()
def compare(model: Transformer, original: Forward, allowed: float) -> float:
    """The largest difference of log probabilities (of values, where the model writes these), on a random batch.

    Args:
        model: The converted model.
        original: The model that it was converted from.
        allowed: The largest difference that is accepted.

    Raises:
        UnsupportedError: If they differ by more, or the original's output has another shape.
    """
    config, draw = model.config, generator(0, "conversion")
    seq = min(config.n_ctx, _LONGEST)
    if config.inputs == "tokens":
        inputs = torch.randint(config.features_in, (_BATCH, seq), generator=draw).to(model.device)
    else:
        inputs = torch.randn(_BATCH, seq, config.features_in, generator=draw).to(model.device, model.dtype)
    theirs, ours = original(inputs).double(), model(inputs).double()
    if theirs.ndim != 3 or (theirs.shape[0], theirs.shape[2]) != (_BATCH, ours.shape[2]) or theirs.shape[1] > seq:
        raise UnsupportedError(
            f"the original's output is {list(theirs.shape)}, the converted model's {list(ours.shape)}: "
            "give `logits`, a function from inputs to logits"
        )
    ours = ours[:, -theirs.shape[1] :]
    size = max(1.0, float(theirs.abs().max()) / _ORDINARY)
    if config.outputs == "logits":
        theirs, ours = theirs.log_softmax(-1), ours.log_softmax(-1)
    worst = float((theirs - ours).abs().max())
    if not worst <= allowed * size:
        raise UnsupportedError(
            f"the converted model differs from the original by up to {worst:.2g} in log probability, allowed are "
            f"{allowed * size:.2g}: it computes something that its settings do not tell"
        )
    return worst


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off, and back as it was on leaving."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
