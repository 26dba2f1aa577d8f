"""Metrics: plain functions `(output, batch, reference) -> [batch]`, higher is better.

Each gives one number per example, the mean over its scored positions (NaN where none is scored). They look at scored
positions only, so that an analysis may hand over a batch packed to those (`Batch.at_scored`). `reference` is the
clean run's output; only `kl` reads it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mechinterp.core.batches import Batch
from mechinterp.core.errors import ConfigError, ShapeError, suggest

Metric = Callable[[Tensor, Batch, Tensor | None], Tensor]


def logit_diff(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Logit of the right answer minus logit of the answer that the corrupted run would give, in nats.

    Args:
        output: Logits `[batch, seq, vocab]`.
        batch: Needs `wrong`.
        reference: Not used.

    Raises:
        ConfigError: If the batch has no wrong answers.
    """
    if batch.wrong is None:
        raise ConfigError(
            "logit_diff needs batch.wrong (a Pair's clean batch has it); use 'log_prob', 'margin' or 'centered_logit'"
        )
    return _mean(_pick(output, batch.targets) - _pick(output, batch.wrong), batch)


def logit(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Logit of the right answer, in nats; a shift of all logits, which changes no probability, counts."""
    return _mean(_pick(output, batch.targets), batch)


def centered_logit(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Logit of the right answer minus the mean over the vocabulary, in nats; a shift of all logits does not count."""
    return _mean(_pick(output, batch.targets) - output.mean(-1), batch)


def log_prob(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Log probability of the right answer, in nats; its negative is the loss."""
    return _mean(_pick(output, batch.targets) - output.logsumexp(-1), batch)


def kl(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Minus the divergence KL(reference || output) of the next-token distributions, in nats; 0 is best.

    Raises:
        ConfigError: If no reference is given.
    """
    if reference is None:
        raise ConfigError("kl needs the reference run's output")
    ours, theirs = output.log_softmax(-1), reference.log_softmax(-1)
    # A reference probability of exactly zero contributes zero, also against log 0.
    gap = torch.where(theirs.exp() == 0, torch.zeros_like(ours), theirs.exp() * (theirs - ours))
    return _mean(-gap.sum(-1), batch)


def margin(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Logit of the right answer minus the largest other logit."""
    right = _pick(output, batch.targets)
    others = output.scatter(-1, _index(output, batch.targets), float("-inf"))
    return _mean(right - others.amax(-1), batch)


def accuracy(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Share of scored positions whose largest logit is the right answer, in [0, 1]."""
    right = (output.argmax(-1) == batch.targets).to(output.dtype)
    return _mean(torch.where(output.isnan().any(-1), output.new_tensor(float("nan")), right), batch)


def mse(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Minus the squared distance to the target, summed over output features; 0 is best.

    Args:
        output: Values `[batch, seq, d_out]`.
        batch: Targets are values of that shape, or tokens, which count as one-hot vectors.
        reference: Not used.
    """
    target = batch.targets
    if not target.is_floating_point():
        target = torch.nn.functional.one_hot(target.clamp(min=0), output.shape[-1])
    elif target.ndim == 2:
        target = target[..., None]
    if target.shape[-1] != output.shape[-1]:
        raise ShapeError(f"outputs have {output.shape[-1]} features, targets {target.shape[-1]}")
    return _mean(-(output - target).square().sum(-1), batch)


METRICS: dict[str, Metric] = {
    "logit_diff": logit_diff,
    "logit": logit,
    "centered_logit": centered_logit,
    "log_prob": log_prob,
    "kl": kl,
    "margin": margin,
    "accuracy": accuracy,
    "mse": mse,
}


LINEAR_METRICS = ("logit_diff", "logit", "centered_logit")
"""Metrics that are linear in the logits, so that components which add up to the logits add up to the metric."""


def resolve_metric(metric: str | Metric) -> tuple[str, Metric]:
    """A metric's name and function.

    Raises:
        ConfigError: If the name is unknown.
    """
    if callable(metric):
        return getattr(metric, "__name__", type(metric).__name__), metric
    if metric not in METRICS:
        raise ConfigError(f"no metric '{metric}'.{suggest(metric, METRICS)}")
    return metric, METRICS[metric]


def _index(output: Tensor, tokens: Tensor) -> Tensor:
    """Token numbers as a gather index `[batch, seq, 1]`; unscored positions may hold -1."""
    if tokens.is_floating_point():
        raise ShapeError(
            "this metric looks up the logit of a token, and the targets are real values: take metric='mse'"
        )
    if output.shape[:2] != tokens.shape[:2]:
        raise ShapeError(f"logits {list(output.shape)} do not fit target tokens {list(tokens.shape)}")
    return tokens.clamp(min=0)[..., None]


def _pick(output: Tensor, tokens: Tensor) -> Tensor:
    return output.gather(-1, _index(output, tokens))[..., 0]


def _mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean over scored positions; `where` keeps an infinity at an unscored position out of the sum."""
    scored = batch.scored
    return torch.where(scored, values, torch.zeros_like(values)).sum(1) / scored.sum(1)
