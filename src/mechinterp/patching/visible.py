"""Which edges an ablation can show at all: those whose source then carries something else where it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import Edge, Graph, HookedModel, Options, Pair, takes
from mechinterp.interventions import as_transformer, largest_source, on_model, quiet, source_steps
from mechinterp.patching.parts import edge_parts, shared_mean
from mechinterp.patching.runs import Runs


@takes("metric", "ablation", "inputs", "budget_mb")
def visible_edges(model: HookedModel | nn.Module, pair: Pair, *, options: Options) -> frozenset[Edge]:
    """Edges whose source carries something else when it is ablated, at some position that their reader reads.

    Of all others the effect is zero by construction: their source is equal in both runs there, up to rounding.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        options: See `Options`.

    Raises:
        UnsupportedError: If the model is no `Transformer`.
    """
    model = as_transformer(model, "exact edge effects need")
    options = options.for_model(model)
    graph, pair = model.config.graph(options.inputs), on_model(pair, model)
    with quiet(model):
        parts = edge_parts(model, pair, graph, options)
        mean = shared_mean(model, parts, options)
        runs = (Runs.of(model, part, options, mean) for part in parts)
        steps = ((each, source_steps(model, each.base.acts, each.other, options.ablation, graph)) for each in runs)
        return visible_in(graph, [View.of(each, graph, step) for each, step in steps])


@dataclass(frozen=True, eq=False)
class View:
    """What ablating each source changes in some examples.

    Args:
        anywhere: The largest change at any position, `[source]`.
        scored: The largest change at scored positions, `[source]`.
        size: The largest number that a source writes.
    """

    anywhere: Float[Tensor, " source"]
    scored: Float[Tensor, " source"]
    size: Float[Tensor, ""]

    @classmethod
    def of(cls, runs: Runs, graph: Graph, steps: Float[Tensor, "source batch seq d_model"]) -> View:
        scored = runs.base.scored.take(steps)
        # Both ends of the range, rather than absolute values, which would be another tensor of this size.
        anywhere, at_scored = (
            torch.maximum(values.flatten(1).amax(1), -values.flatten(1).amin(1)) for values in (steps, scored)
        )
        return cls(anywhere, at_scored, largest_source(runs.model, runs.base.acts, graph))


def visible_in(graph: Graph, views: Sequence[View]) -> frozenset[Edge]:
    """The edges of which ablating changes something that their reader reads, in any of the examples."""
    anywhere, scored = (
        torch.stack(each).amax(0) for each in zip(*((v.anywhere, v.scored) for v in views), strict=True)
    )
    tiny = 1000 * torch.finfo(anywhere.dtype).eps * torch.stack([view.size for view in views]).amax()
    (all_, ends) = (dict(zip(graph.sources, (values > tiny).tolist(), strict=True)) for values in (anywhere, scored))
    # What is read elsewhere in the last layer reaches no scored output, but for keys and values.
    last = graph.n_layers - 1
    at_scored = {
        reader
        for reader in graph.readers
        if reader.kind == "logits" or (reader.kind in ("q", "mlp") and reader.layer == last)
    }
    return frozenset(edge for edge in graph.edges if (ends if edge.reader in at_scored else all_)[edge.source])
