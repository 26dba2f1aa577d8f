"""Information flow: how much of what a component reads comes from each source, without any intervention.

1. The importance of a source for a reader is how much nearer the reader's input lies to it than to nothing: with the
   input `y`, a sum of sources `x`, it is `max(|y| - |y - x|, 0)` in the 1-norm, as a share over the sources.
2. From the logits backwards a component's flow is the largest, over the readers that it feeds, of importance times the
   flow of the reader's component. An edge's score is importance times the flow of its reader's component.

One clean run is all it takes; no metric and no corrupted run decide, so that it finds what is large, whether or not the
answer depends on it.

Source: Ferrando & Voita 2024, https://arxiv.org/abs/2403.00824. Differs: they keep edges above a threshold and split
attention by position; here importances are means over the positions that count, and every edge has a score.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Graph, Pair, Site, component, labelled, owners
from mechinterp.interventions import activations, on_model, quiet, source_values
from mechinterp.models import Transformer


def information_flow(model: Transformer, pair: Pair, graph: Graph) -> xr.DataArray:
    """The flow over every edge.

    Args:
        model: The model.
        pair: Its clean run is looked at: at scored positions for what the logits read, else at all.
        graph: The model's edges.

    Returns:
        Dimension edge: values from 0 to 1.
    """
    pair = on_model(pair, model)
    with quiet(model):
        sources = source_values(model, activations(model, pair.clean.inputs), graph)
    scored = pair.clean.scored
    flow: dict[Site, float] = {Site("logits"): 1.0}
    scores: dict[str, float] = {}
    for reader in reversed(graph.readers):
        seen = graph.incoming(reader)
        shares = _shares(sources[: len(seen)], scored if reader.kind == "logits" else torch.ones_like(scored))
        own = max((flow.get(owner, 0.0) for owner in owners(reader)), default=0.0)
        for source, share in zip(seen, shares.tolist(), strict=True):
            scores[f"{source}->{reader}"] = share * own
            part = component(source)
            flow[part] = max(flow.get(part, 0.0), share * own)
    names = [str(edge) for edge in graph.edges]
    return labelled(torch.tensor([scores[name] for name in names]), ["edge"], {"edge": names})


def _shares(
    sources: Float[Tensor, "source batch seq d_model"], where: Float[Tensor, "batch seq"] | Tensor
) -> Float[Tensor, " source"]:
    """The importance of each source for the sum of all, mean over some positions."""
    whole = sources.sum(0)
    near = torch.stack([whole.abs().sum(-1) - (whole - each).abs().sum(-1) for each in sources]).clamp(min=0)
    shares = near / near.sum(0).clamp(min=torch.finfo(near.dtype).tiny)
    return (shares * where).flatten(1).sum(1) / where.sum()
