"""One edge more or one edge less: all neighbours of a circuit, from one run of it.

A circuit and its neighbour differ in one reader's input, by what one source carries there. Everything before that
reader is the circuit's own run, and so are the other heads of its layer: heads of one layer do not read each other. All
edges from one source to one kind of reader are computed together, as each changes a head of its own. In the last layer
only the logits (and the layer's MLP) read what has changed, so that a neighbour's output is the circuit's and a
difference; before it, the layers that follow are run again (`Stream.finish`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.core import Circuit, Edge, HookedModel, Options, Pair, Site, takes
from mechinterp.interventions.circuits import (
    BLOCK,
    BUDGET_MB,
    RUNNER,
    Runner,
    Stream,
    edge_masks,
    ends_of,
    graph_of,
)
from mechinterp.interventions.hooks import quiet
from mechinterp.interventions.placement import as_transformer
from mechinterp.interventions.scoring import Scorer
from mechinterp.models import Positions


@takes("metric", "ablation", budget_mb=BUDGET_MB)
def score_neighbours(
    model: HookedModel | nn.Module, pair: Pair, circuit: Circuit, edges: Sequence[Edge], *, options: Options
) -> Float[Tensor, "edge batch"]:
    """The metric of a circuit without one of its edges, or with one that it lacks, for each of some edges.

    Args:
        model: A `Transformer`.
        pair: Clean inputs to run on, corrupted ones for the reference.
        circuit: The circuit.
        edges: What is removed, where the circuit has it, or added, where not.
        options: See `Options`.

    Returns:
        One value per edge and example, as `score_circuits` gives for each of these circuits.

    Raises:
        SiteError: If the model lacks an edge.
    """
    model = as_transformer(model, RUNNER)
    graph = graph_of(model, circuit.inputs)
    (mask,) = edge_masks(graph, [circuit]).to(model.device)
    wanted = [graph.check(edge) for edge in edges]
    with quiet(model):
        ends = ends_of(model, pair, graph, options)
        scorer = Scorer.of(ends.pair, options.for_model(model), ends.output)
        where = ends.where.of_examples(BLOCK, len(pair))
        sides = (part.split(BLOCK, 1) for part in (ends.roots, ends.reference))
        parts = zip(where, *sides, scorer.positions.split(BLOCK), strict=True)
        runs = [_Neighbours.of(Runner(model, graph, at, options.budget_mb), mask, *part) for at, *part in parts]
        return scorer(torch.cat([run.outputs(wanted) for run in runs], 1))


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """One circuit's run on some examples, and the runs that differ from it by an edge.

    Args:
        run: Runs circuits.
        mask: The circuit's edges.
        roots: Clean values of the sources that nothing feeds.
        reference: What absent edges carry.
        scored: The scored positions.
    """

    run: Runner
    mask: Bool[Tensor, "source reader"]
    roots: Float[Tensor, "root batch seq d_model"]
    reference: Float[Tensor, "source batch seq d_model"]
    scored: Positions

    @classmethod
    def of(cls, run: Runner, mask: Tensor, roots: Tensor, reference: Tensor, scored: Int[Tensor, "batch scored"]):
        return cls(run, mask, roots, reference, run.where.pick(scored))

    def outputs(self, edges: Sequence[Edge]) -> Float[Tensor, "edge batch scored out"]:
        """Outputs at the scored positions, in the order of the edges."""
        groups: dict[tuple[int | None, str], list[int]] = {}
        for number, edge in enumerate(edges):
            kind = "attn" if edge.reader.head is not None else edge.reader.kind
            groups.setdefault((edge.reader.layer, kind), []).append(number)
        results: dict[int, Tensor] = {}

        def put(key: tuple[int | None, str], change) -> None:
            for part in self._affordable(groups.get(key, [])):
                results.update(zip(part, change([edges[number] for number in part]), strict=True))

        stream = Stream.start(self.run, self.mask[None], self.roots, self.reference)
        for layer in range(self.run.graph.n_layers):
            at = self.scored if layer == self.run.graph.n_layers - 1 else self.run.where
            heads = _Heads.of(stream, layer, at)
            put((layer, "attn"), lambda some, heads=heads: self._from_heads(heads, some))
            before = replace(stream)
            stream.write(layer, heads.written, at)
            put((layer, "mlp"), lambda some, layer=layer, heads=heads, stream=before: self._from_mlp(stream, heads, some))
        put((None, "logits"), lambda some: self._from_logits(stream, some))
        return torch.stack([results[number] for number in range(len(edges))])
