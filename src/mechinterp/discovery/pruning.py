"""Edge pruning: learn a mask over edges that keeps the model's behaviour and costs as little as possible.

1. Each edge has a gate between 0 and 1, drawn from a hard concrete distribution with one parameter: a stretched and
   clipped sigmoid of logistic noise, so that exact zeros and ones have positive probability.
2. An edge with gate g carries g of this run's value and 1 - g of the reference's, in all layers at once.
3. Adam minimises the mean |m(C) - m(N)| over examples, as a share of the gap, plus a penalty times the expected share
   of open gates; the penalty rises in a straight line over the first half of the steps.
4. An edge's score is its parameter at the end.

Source: Bhaskar et al. 2024, https://arxiv.org/abs/2406.16778, with the hard concrete gates of Louizos et al. 2018,
https://arxiv.org/abs/1712.01312. Differs: the penalty is fixed instead of a Lagrangian for a sparsity that must be
named, and the loss is the metric's, not KL.
"""

from __future__ import annotations

import math

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import ConfigError, generator, labelled, uniform
from mechinterp.interventions import Judge, score_gates

UPDATES = 300
PENALTY = 1.0
RATE = 0.1
"""Adam's learning rate."""
_OPEN = 2.0
"""Parameters at the start: nearly all gates are open."""
_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Of the hard concrete distribution: temperature, and the interval that the sigmoid is stretched to."""


def prune_edges(judge: Judge, *, steps: int = UPDATES, penalty: float = PENALTY, seed: int = 0) -> xr.DataArray:
    """Parameters of learnt gates.

    Args:
        judge: Knows model, pair and options; the metric is differentiable.
        steps: Updates.
        penalty: On the expected share of open gates, in shares of the gap.
        seed: Of the noise.

    Returns:
        Dimension edge: the logit-like parameter of each gate; edges that are closed for sure are below -2.

    Raises:
        ConfigError: If steps or penalty are not positive.
    """
    if steps < 1 or not penalty > 0:
        raise ConfigError(f"steps={steps}, penalty={penalty}: both are above 0")
    edges, device = judge.graph.edges, judge.transformer.device
    full, unit = torch.from_numpy(judge.full).to(device), max(judge.scale, torch.finfo(torch.float64).tiny)
    gates = torch.full((len(edges),), _OPEN, device=device, requires_grad=True)
    adam = torch.optim.Adam([gates], lr=RATE)
    draw = generator(seed, "edge pruning")
    closed = _TEMPERATURE * math.log(-_LOW / _HIGH)
    for step in range(steps):
        open_share = torch.sigmoid(gates - closed).mean()
        scores = score_gates(judge.model, judge.pair, edges, _draw(gates, draw), options=judge.options)
        loss = (scores.double() - full).abs().mean() / unit
        loss = loss + penalty * min(1.0, 2 * (step + 1) / steps) * open_share
        adam.zero_grad()
        loss.backward()
        adam.step()
    return labelled(gates.detach(), ["edge"], {"edge": [str(edge) for edge in edges]})


def _draw(gates: Float[Tensor, " edge"], draw: torch.Generator) -> Float[Tensor, " edge"]:
    """One draw of all gates, differentiable in the parameters."""
    noise = uniform(draw, len(gates)).clamp(1e-6, 1 - 1e-6).to(gates.device)
    soft = torch.sigmoid((noise.logit() + gates) / _TEMPERATURE)
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)
