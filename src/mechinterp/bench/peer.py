"""EAP-IG as the public code of Hanna et al. 2024 computes it, in plain PyTorch with hooks: what ours is compared with.

One tensor `[batch, pos, source, d_model]` holds what all sources write in the corrupted run less what they write in the
clean one. At each point of the path the model runs forward and backward, and a backward hook at every reader's input
contracts the gradient with that tensor. It is leaner than the original in two ways: the weights are frozen, so that no
gradients of weights are computed, and heads' results are materialised only where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mechinterp.core import Graph, Pair, Site
from mechinterp.models import Transformer


def peer_eap_ig(
    model: Transformer, pair: Pair, metric: Callable[[Tensor], Tensor], steps: int
) -> dict[tuple[Site, Site], float]:
    """Scores of all edges, mean over examples, positive where keeping the edge helps.

    Args:
        model: With frozen weights.
        pair: Clean and corrupted inputs.
        metric: From logits to one number per example.
        steps: Points of the path, the corrupted one in, the clean one out.
    """
    graph = model.config.graph()
    clean, corrupted = pair.clean.inputs, pair.corrupted.inputs
    number = {source: i for i, source in enumerate(graph.sources)}
    difference = torch.zeros(*clean.shape, len(graph.sources), model.config.d_model)
    scores = torch.zeros(len(graph.sources), len(graph.readers))
    with torch.no_grad():
        model.run_with_hooks(corrupted, fwd_hooks=_writers(graph, number, difference, 1.0))
        start = difference[:, :, 0].clone()
        model.run_with_hooks(clean, fwd_hooks=_writers(graph, number, difference, -1.0))
        stop = start - difference[:, :, 0]
    readers = _readers(graph, difference, scores)
    for step in range(steps):
        point = start + step / steps * (stop - start)
        replace = (Site("input").hook, lambda value, hook, point=point: point.requires_grad_())
        with model.hooks(fwd_hooks=[replace], bwd_hooks=readers):
            metric(model(clean)).sum().backward()
    scores /= -steps * len(pair)
    column = {reader: j for j, reader in enumerate(graph.readers)}
    edges = graph.edges
    return {(edge.source, edge.reader): float(scores[number[edge.source], column[edge.reader]]) for edge in edges}


def _writers(graph: Graph, number: dict[Site, int], difference: Tensor, sign: float) -> list:
    """Forward hooks that add what sources write to the differences, or take it off."""

    def add(at: int | slice) -> Callable:
        def hook(value: Tensor, hook: object) -> None:
            difference[:, :, at] += sign * value.detach()

        return hook

    hooks = [(Site("input").hook, add(0))]
    for layer in range(graph.n_layers):
        first = number[Site("result", layer, 0)]
        hooks.append((Site("result", layer).hook, add(slice(first, first + graph.n_heads))))
        if graph.mlp:
            hooks.append((Site("mlp", layer).hook, add(number[Site("mlp", layer)])))
    return hooks


def _readers(graph: Graph, difference: Tensor, scores: Tensor) -> list:
    """Backward hooks that contract gradients at readers' inputs with the differences of the sources before them."""
    column = {reader: j for j, reader in enumerate(graph.readers)}

    def contract(readers: Sequence[Site]) -> Callable:
        before, columns = len(graph.incoming(readers[0])), [column[reader] for reader in readers]

        def hook(grad: Tensor, hook: object) -> None:
            grads = grad if grad.ndim == 4 else grad.unsqueeze(2)
            scores[:before, columns] += torch.einsum("bsum,bsrm->ur", difference[:, :, :before], grads)

        return hook

    groups = [graph.forks(kind, layer) for layer in range(graph.n_layers) for kind in "qkv"]
    groups += [(reader,) for reader in graph.readers if reader.kind in ("mlp", "logits")]
    return [(graph.input_hook(readers[0]), contract(readers)) for readers in groups]
