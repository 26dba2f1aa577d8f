"""A circuit's neighbours: one edge more or one edge less, all of them from one run of the circuit.

A circuit and its neighbour differ in what one source carries for one reader. Everything before that reader is the
circuit's own run, and so are the other heads of its layer, which do not read each other. All edges from one source to
one kind of reader are computed together, as each changes another head. In the last layer only its MLP and the logits
read what has changed, so the output is the circuit's and a difference; before it, the later layers run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, Site, takes
from mechinterp.interventions.circuits import RUNNER, edge_masks, graph_of, runners_of
from mechinterp.interventions.hooks import quiet
from mechinterp.interventions.placement import as_transformer
from mechinterp.interventions.runner import ResidualStreams
from mechinterp.models import Positions

SourceChange = Mapping[int, Float[Tensor, "batch row d_model"]]
"""Source -> by how much what it writes differs from the circuit's run."""


@takes("metric", "ablation", "budget_mb")
def score_neighbours(
    model: HookedModel | nn.Module, pair: Pair, circuit: Circuit, edges: Sequence[str | Edge], *, options: Options
) -> Float[Tensor, "edge batch"]:
    """The metric of a circuit without one of its edges, or with one that it lacks, for each of some edges.

    Args:
        model: A `Transformer`.
        pair: Clean inputs to run on, corrupted ones for the reference.
        circuit: The circuit.
        edges: What is removed where the circuit has it, and added where not.
        options: See `Options`.

    Returns:
        One value per edge and example, as `score_circuits` gives for each of these circuits.

    Raises:
        SiteError: If the model lacks an edge.
    """
    model = as_transformer(model, RUNNER)
    graph = graph_of(model, circuit.inputs)
    masks = edge_masks(graph, [circuit]).to(model.device)
    wanted = [graph.check(edge) for edge in edges]
    with quiet(model):
        scorer, runners = runners_of(model, pair, graph, options)
        return scorer(torch.cat([_outputs(runner.start(masks), wanted) for runner in runners], 1))


def _outputs(stream: ResidualStreams, edges: Sequence[Edge]) -> Float[Tensor, "edge batch scored out"]:
    """Outputs of a circuit's neighbours at the scored positions; the stream is at its beginning and is used up."""
    outputs: dict[Edge, Tensor] = {}
    for layer in range(stream.run.graph.n_layers):
        heads = _Heads.of(stream, layer)
        read = stream.write(layer, heads.written[None], heads.at)
        here = [edge for edge in edges if edge.reader.layer == layer]
        changes = _by_heads(heads, [edge for edge in here if edge.reader.head is not None])
        if read is not None:
            to_mlp = [edge for edge in here if edge.reader.head is None]
            changes = _through_mlp(stream, layer, read[0], changes, to_mlp)
        outputs |= _finished(stream, layer, changes)
    last = [edge for edge in edges if edge.reader.layer is None]
    if last:
        (base,) = stream.mixed([Site("logits")], stream.constant)[0]
        moved = torch.stack([base + _toggled(stream, edge) for edge in last])
        outputs |= zip(last, stream.run.model.read(moved), strict=True)
    return torch.stack([outputs[edge] for edge in edges])


@dataclass(frozen=True, eq=False)
class _Heads:
    """A layer's attention in a circuit's run.

    Args:
        stream: Before the layer.
        layer: The layer.
        at: Where its heads must be known.
        inputs: What the forks of each kind read, `[fork, batch, row, d_model]`, before the norm.
        forks: q, k and v, `[batch, row, fork, d_head]`.
        written: What the heads write, `[head, batch, row, d_model]`.
    """

    stream: ResidualStreams
    layer: int
    at: Positions
    inputs: Mapping[str, Tensor]
    forks: Mapping[str, Tensor]
    written: Tensor

    @classmethod
    def of(cls, stream: ResidualStreams, layer: int) -> _Heads:
        stream, graph, at = replace(stream), stream.run.graph, stream.run.queries(layer)
        rows = {"q": at, "k": stream.run.where, "v": stream.run.where}
        inputs = {
            kind: stream.mixed(graph.forks(kind, layer), where.take(stream.constant), where)[0]
            for kind, where in rows.items()
        }
        heads = cls(stream, layer, at, inputs, {}, torch.empty(0))
        forks = {kind: heads.project(kind, x) for kind, x in inputs.items()}
        return replace(heads, forks=forks, written=heads.attend(forks))

    def rows(self, kind: str) -> Positions:
        """Where the forks of a kind are known."""
        return self.at if kind == "q" else self.stream.run.where

    def project(self, kind: str, x: Float[Tensor, "fork batch row d_model"]) -> Tensor:
        """Queries, keys or values of these inputs."""
        block = self.stream.run.model.blocks[self.layer]
        return block.attn.project_heads(kind, block.ln1(x).movedim(0, -2), self.rows(kind))

    def attend(self, forks: Mapping[str, Tensor]) -> Float[Tensor, "head batch row d_model"]:
        """What the heads write, given their queries, keys and values."""
        attn = self.stream.run.model.blocks[self.layer].attn
        z = attn.attend(forks["q"], forks["k"], forks["v"], self.at, self.stream.run.where)
        return attn.write_heads(z).movedim(-2, 0)

    def toggled(self, source: int, kind: str) -> Float[Tensor, "head batch row d_model"]:
        """By how much a head's output changes as its fork of a kind sees a source that it did not see, or loses one."""
        graph = self.stream.run.graph
        columns = [graph.readers.index(fork) for fork in graph.forks(kind, self.layer)]
        sign = 1 - 2 * self.stream.weights[0, source, columns]
        step = self.rows(kind).take(self.stream.delta[0, source])
        changed = self.project(kind, self.inputs[kind] + sign[:, None, None, None] * step)
        return self.attend({**self.forks, kind: changed}) - self.written


def _by_heads(heads: _Heads, edges: Sequence[Edge]) -> Iterator[tuple[Edge, SourceChange]]:
    """What each of the edges into a layer's heads changes."""
    graph = heads.stream.run.graph
    row = {site: number for number, site in enumerate(graph.sources)}
    together: dict[tuple[int, str], list[Edge]] = {}
    for edge in edges:
        together.setdefault((row[edge.source], edge.reader.kind), []).append(edge)
    for (source, kind), members in together.items():
        difference = heads.toggled(source, kind)
        for edge in members:
            yield edge, {row[Site("result", heads.layer, head)]: difference[head] for head in edge.reader.heads}


def _through_mlp(
    stream: ResidualStreams,
    layer: int,
    read: Tensor,
    changes: Iterator[tuple[Edge, SourceChange]],
    to_mlp: Sequence[Edge],
) -> Iterator[tuple[Edge, SourceChange]]:
    """The same, with what the layer's MLP makes of it; and what the edges into the MLP itself change.

    Args:
        stream: After the layer.
        layer: The layer.
        read: What its MLP reads in the circuit's run.
        changes: By its heads.
        to_mlp: Edges into its MLP.
    """
    graph, written = stream.run.graph, stream.mlp(layer, read)
    site = Site("mlp", layer)
    own, column = graph.sources.index(site), graph.readers.index(site)
    for edge, change in changes:
        moved = _weighted(stream.weights[0, :, column], change)
        yield edge, {**change, own: stream.mlp(layer, read + moved) - written}
    for edge in to_mlp:
        yield edge, {own: stream.mlp(layer, read + _toggled(stream, edge)) - written}


def _weighted(weights: Float[Tensor, " source"], change: SourceChange) -> Float[Tensor, "batch row d_model"]:
    """What a reader sees of a change."""
    return torch.stack([weights[source] * value for source, value in change.items()]).sum(0)


def _toggled(stream: ResidualStreams, edge: Edge) -> Float[Tensor, "batch row d_model"]:
    """By how much a reader's input changes as it sees a source that it did not see, or loses one."""
    graph = stream.run.graph
    source, reader = graph.sources.index(edge.source), graph.readers.index(edge.reader)
    return (1 - 2 * stream.weights[0, source, reader]) * stream.delta[0, source]


def _finished(
    stream: ResidualStreams, layer: int, changes: Iterator[tuple[Edge, SourceChange]]
) -> Iterator[tuple[Edge, Float[Tensor, "batch scored out"]]]:
    """Outputs, given what has changed in a layer; the stream is after it."""
    run, graph = stream.run, stream.run.graph
    last = layer == graph.n_layers - 1
    wide = 4 if last else 3 * len(graph.sources)
    many = max(1, int(run.memory / (wide * stream.constant.numel() * stream.constant.element_size())))
    column = graph.readers.index(Site("logits"))
    base = stream.mixed([Site("logits")], stream.constant)[0, 0] if last else None
    while part := list(islice(changes, many)):
        if base is None:
            outputs = _rest(stream, layer, [change for _, change in part])
        else:
            weights = stream.weights[0, :, column]
            moved = [_weighted(weights, change) for _, change in part]
            outputs = run.model.read(base + torch.stack(moved))
        yield from zip((edge for edge, _ in part), outputs, strict=True)


def _rest(
    stream: ResidualStreams, layer: int, changes: Sequence[SourceChange]
) -> Float[Tensor, "change batch scored out"]:
    """Outputs of the layers that follow, each change in a run of its own."""
    many = len(changes)
    delta = stream.delta.expand(many, *stream.delta.shape[1:]).clone()
    for number, change in enumerate(changes):
        for source, value in change.items():
            delta[number, source] += value
    weights = stream.weights.expand(many, *stream.weights.shape[1:])
    return replace(stream, weights=weights, delta=delta).finish(layer + 1)
