"""What an estimate of edges is made of: what sources write in two runs, and the gradient at each reader's own input.

The gradients of a layer's readers are made when they are asked for, from those of its queries, keys, values and MLP: to
hold the inputs of all heads of all layers would take more memory than the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Graph, Options, Pair, Site
from mechinterp.interventions import Activations, activations, gradients, source_steps, take
from mechinterp.models import Transformer
from mechinterp.patching.parts import repeated, shared_mean

LayerGradients = tuple[Sequence[Site], Float[Tensor, "reader batch seq d_model"]]
"""Some readers, and the gradient at the input of each, summed over points."""


@dataclass(frozen=True, eq=False)
class Ends:
    """The two runs that an estimate lies between.

    Args:
        steps: From what each source writes in the clean run to what replaces it, `[source, batch, seq, d_model]`.
        clean: Output of the clean run at the scored positions.
        corrupted: Output of the corrupted run there.
        start: The corrupted stream before the first layer, `[batch, seq, d_model]`.
        stop: The clean one.
    """

    steps: Float[Tensor, "source batch seq d_model"]
    clean: Float[Tensor, "batch scored out"]
    corrupted: Float[Tensor, "batch scored out"]
    start: Float[Tensor, "batch seq d_model"]
    stop: Float[Tensor, "batch seq d_model"]


@dataclass(frozen=True, eq=False)
class Path:
    """Runs that differ from the clean one in what passes one hook point; gradients are taken at each.

    Args:
        hook: The hook point.
        points: How many runs.
        change: From its value in the clean run at all points, `[point batch, ...]`, to what it becomes.
        sources: Those whose edges are estimated from these runs, as rows of the graph's sources.
    """

    hook: str
    points: int
    change: Callable[[Tensor], Tensor]
    sources: slice

    def seen(self, graph: Graph, reader: Site) -> slice:
        """Those of the sources that a reader sees; only readers that see one need a gradient."""
        return slice(self.sources.start, min(self.sources.stop, len(graph.incoming(reader))))

    def reaches(self, graph: Graph, reader: Site) -> bool:
        """Whether a reader sees one of the sources."""
        return self.sources.start < len(graph.incoming(reader))


@runtime_checkable
class Wires(Protocol):
    """A model as an estimate sees it: its sources and its readers."""

    @property
    def graph(self) -> Graph:
        """All edges."""
        ...

    def row_size(self, points: int) -> int:
        """Numbers that a position of an example takes, with gradients at so many points."""
        ...

    @property
    def fixed(self) -> int:
        """Numbers that a call takes, whatever its examples."""
        ...

    def mean(self, parts: Sequence[Pair], options: Options) -> Any:
        """What takes the place of the corrupted run in every part; None where each has its own."""
        ...

    def ends(self, part: Pair, mean: Any, options: Options) -> Ends:
        """The two runs of a part of the pair."""
        ...

    def gradients(self, part: Pair, path: Path, score: Callable[[Tensor], Tensor]) -> Iterator[LayerGradients]:
        """Gradients at the inputs of all readers that the path reaches.

        Args:
            part: Whose clean inputs run.
            path: What becomes of these runs.
            score: From outputs at the scored positions `[point, batch, scored, out]` to what is differentiated.
        """
        ...


@dataclass(frozen=True, eq=False)
class OwnWires:
    """Those of a `Transformer` without hooks."""

    model: Transformer
    graph: Graph

    def row_size(self, points: int) -> int:
        """All sources, and the largest of: two recorded runs, the graph at each point, a layer's readers."""
        config, graph = self.model.config, self.graph
        queries, forks = (many * config.d_head for many in (config.n_heads, config.n_heads + 2 * config.kv_heads))
        layer = 4 * config.d_model + 2 * forks + 2 * queries + (1 + 2 * config.gated_mlp) * config.d_mlp
        at_points = points * (config.n_layers * layer + 2 * config.d_mlp + config.d_model)
        readers = 4 * (config.n_heads + 2 * config.kv_heads) * config.d_model
        return len(graph.sources) * config.d_model + max(2 * config.run_width, at_points, readers)

    @property
    def fixed(self) -> int:
        """The fused weights of queries, keys and values, which the graph holds in every layer."""
        config = self.model.config
        return config.n_layers * (config.n_heads + 2 * config.kv_heads) * config.d_head * config.d_model

    def mean(self, parts: Sequence[Pair], options: Options) -> Activations | None:
        """The mean run over all parts, if the ablation is a mean."""
        return shared_mean(self.model, parts, options)

    @torch.no_grad()
    def ends(self, part: Pair, mean: Activations | None, options: Options) -> Ends:
        """Both runs, of which only what is needed later is kept."""
        clean, corrupted = (activations(self.model, batch.inputs) for batch in (part.clean, part.corrupted))
        other = corrupted if mean is None else repeated(mean, len(part))
        steps = source_steps(self.model, clean, other, options.ablation, self.graph)
        _, scored, _ = part.clean.at_scored()
        outputs = [self.model.read(take(run.final, scored)) for run in (clean, corrupted)]
        return Ends(steps, *outputs, start=corrupted.resid_pre[0], stop=clean.resid_pre[0])

    def gradients(self, part: Pair, path: Path, score: Callable[[Tensor], Tensor]) -> Iterator[LayerGradients]:
        """From those at queries, keys, values and MLPs, by `Block.fork_gradients`."""
        model, graph, many = self.model, self.graph, path.points
        _, scored, _ = part.clean.at_scored()
        scored = scored.repeat(many, 1)
        layers = [layer for layer in range(graph.n_layers) if path.reaches(graph, graph.fork("q", layer, 0))]
        forks = {layer: [Site(kind, layer).hook for kind in "qkv"] for layer in layers}
        streams = {layer: Site("resid_pre", layer).hook for layer in layers}
        readers = [Site("mlp", layer) for layer in range(graph.n_layers)] if graph.mlp else []
        mlps = {reader: graph.input_hook(reader) for reader in readers if path.reaches(graph, reader)}
        end = graph.input_hook(Site("logits"))
        values, grads = gradients(
            model,
            repeat(part.clean.inputs, "batch ... -> (point batch) ...", point=many),
            [*chain(*forks.values()), *streams.values(), *mlps.values(), end],
            lambda final: score(model.read(take(final, scored)).unflatten(0, (many, -1))),
            {path.hook: path.change},
            end,
        )
        _, where = model.embedded(part.clean.inputs)
        yield [Site("logits")], grads.pop(end).unflatten(0, (many, -1)).sum(0)[None]
        for layer in layers:
            fork, grad = (
                torch.cat([held.pop(name) for name in forks[layer]], -2).unflatten(0, (many, -1))
                for held in (values, grads)
            )
            stream = values.pop(streams[layer]).unflatten(0, (many, -1))
            inputs = model.blocks[layer].fork_gradients(stream, fork, grad, where)
            yield [reader for kind in "qkv" for reader in graph.forks(kind, layer)], inputs
        for reader, name in mlps.items():
            yield [reader], grads.pop(name).unflatten(0, (many, -1)).sum(0)[None]
