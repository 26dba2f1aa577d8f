"""Run circuits: an absent edge carries the reference's value, a present one the value of this very run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mechinterp.core import Circuit, ConfigError, Graph, HookedModel, Options, Pair, Site, takes
from mechinterp.core.memo import remembered
from mechinterp.interventions.activations import activations, source_values
from mechinterp.interventions.hooks import quiet
from mechinterp.interventions.placement import as_transformer, on_model
from mechinterp.interventions.reference import ablated
from mechinterp.interventions.scoring import Scorer
from mechinterp.models import Positions, Transformer, take

BUDGET_MB = 16.0
"""Small on purpose: what stays in the processor's cache runs more than twice as fast as all at once."""
BLOCK = 32
"""Examples that are run together."""
RUNNER = "running a circuit needs"


@takes("metric", "ablation", "budget_mb")
def score_circuits(
    model: HookedModel | nn.Module,
    pair: Pair,
    circuits: Sequence[Circuit],
    *,
    options: Options,
) -> Float[Tensor, "circuit batch"]:
    """The metric of every circuit, run on the clean inputs with all other edges ablated.

    A reader's input is the sum over sources of this run's value where the edge is in the circuit and of the
    reference's where it is not, plus all biases; the layer norm sees that sum.

    Args:
        model: A `Transformer`.
        pair: Clean inputs to run on, corrupted ones for the reference.
        circuits: What to run; all in one input convention.
        options: See `Options`; circuits are run together as far as the memory allows.

    Returns:
        One value per circuit and example, `[circuit, batch]`.

    Raises:
        SiteError: If a circuit has an edge that the model has not.
        ConfigError: If circuits mix input conventions.
    """
    if not circuits:
        raise ConfigError("no circuits to run")
    conventions = {circuit.inputs for circuit in circuits}
    if len(conventions) > 1:
        raise ConfigError("circuits mix inputs='merged' and inputs='split'")
    model = as_transformer(model, RUNNER)
    graph = graph_of(model, circuits[0].inputs)
    masks = edge_masks(graph, circuits).to(model.device)
    with quiet(model):
        # A search asks for block after block of circuits on one pair.
        ends = remembered(
            "runs", (model, pair, graph.inputs, options.ablation), partial(_ends, model, pair, graph, options)
        )
        scorer = Scorer.of(ends.pair, options.for_model(model), ends.output)
        where = ends.where.of_examples(BLOCK, len(pair))
        sides = (part.split(BLOCK, 1) for part in (ends.roots, ends.reference))
        parts = zip(where, *sides, scorer.positions.split(BLOCK), strict=True)
        memory = options.memory(BUDGET_MB, model.device)
        runs = [_Runner(model, graph, at, memory)(masks, *part) for at, *part in parts]
        return scorer(torch.cat(runs, 1))


@dataclass(frozen=True, eq=False)
class _Ends:
    """The clean and the corrupted run, between which circuits lie.

    Args:
        pair: On the model's device.
        where: The positions.
        roots: Clean values of the sources that nothing feeds.
        reference: What absent edges carry.
        output: The clean run's, at the scored positions.
    """

    pair: Pair
    where: Positions
    roots: Float[Tensor, "root batch seq d_model"]
    reference: Float[Tensor, "source batch seq d_model"]
    output: Float[Tensor, "batch scored out"]


def _ends(model: Transformer, pair: Pair, graph: Graph, options: Options) -> _Ends:
    pair = on_model(pair, model)
    clean = activations(model, pair.clean.inputs)
    reference = source_values(model, activations(model, pair.corrupted.inputs), graph)
    roots = source_values(model, clean, graph)[: len(graph.roots)]
    output = model.read(take(clean.final, pair.clean.at_scored()[1]))
    return _Ends(pair, clean.where, roots, ablated(reference, options.ablation, batch_dim=1), output)


def graph_of(model: HookedModel | nn.Module, inputs: str = "merged") -> Graph:
    """The edges of a model that circuits can be run in.

    Raises:
        UnsupportedError: If they cannot be run in it.
    """
    return as_transformer(model, RUNNER).config.graph(inputs)


def edge_masks(graph: Graph, circuits: Sequence[Circuit]) -> Bool[Tensor, "circuit source reader"]:
    """Which sources each reader sees, for each circuit.

    Raises:
        SiteError: If the graph lacks an edge.
    """
    source = {site: i for i, site in enumerate(graph.sources)}
    reader = {site: i for i, site in enumerate(graph.readers)}
    masks = torch.zeros(len(circuits), len(source), len(reader), dtype=torch.bool)
    for i, circuit in enumerate(circuits):
        for edge in circuit.edges:
            graph.check(edge)
            masks[i, source[edge.source], reader[edge.reader]] = True
    return masks


@dataclass(frozen=True, eq=False)
class _Runner:
    """Runs circuits of one model, many at once.

    Only differences from the reference travel: a reader starts from the sum of all references and biases, and adds the
    differences of the sources that it sees. The first layer's heads read roots alone, so whatever the circuits, a head
    there puts out one of few things (8 with merged inputs); each is computed once.
    """

    model: Transformer
    graph: Graph
    where: Positions
    memory: float

    def __call__(
        self,
        masks: Bool[Tensor, "circuit source reader"],
        roots: Float[Tensor, "root batch seq d_model"],
        reference: Float[Tensor, "source batch seq d_model"],
        scored: Int[Tensor, "batch scored"],
    ) -> Float[Tensor, "circuit batch scored out"]:
        """Outputs at the scored positions."""
        heads, many = range(self.graph.n_heads), len(roots)
        columns = [[self.graph.readers.index(fork) for fork in self.graph.forks_of(0, head)] for head in heads]
        inputs = rearrange(masks[:, :many, columns], "circuit root head kind -> (circuit head) (root kind)")
        variants, which = inputs.unique(dim=0, return_inverse=True)
        as_masks = torch.zeros(len(variants), *masks.shape[1:], dtype=torch.bool, device=masks.device)
        as_masks[:, :many, columns] = repeat(
            variants, "variant (root kind) -> variant root head kind", root=many, head=len(heads)
        )
        last = self.where.pick(scored)
        at = last if self.graph.n_layers == 1 else self.where
        first = torch.cat([_Stream.start(self, part, roots, reference).attention(0, at) for part in as_masks.split(4)])
        which = rearrange(which, "(circuit head) -> circuit head", head=len(heads))
        size = len(self.graph.sources) * 3 * roots[0].numel() * roots.element_size()
        chunk = max(1, int(self.memory / size))
        outputs = []
        for part, pick in zip(masks.split(chunk), which.split(chunk), strict=True):
            written = first[pick, torch.arange(len(heads), device=pick.device)]
            outputs.append(_Stream.start(self, part, roots, reference).finish(written, last))
        return torch.cat(outputs)


@dataclass(eq=False)
class _Stream:
    """The residual streams of some circuits, as far as they have been computed."""

    run: _Runner
    weights: Float[Tensor, "circuit source reader"]
    delta: Float[Tensor, "circuit written batch seq d_model"]
    constant: Float[Tensor, "batch seq d_model"]
    reference: Float[Tensor, "source batch seq d_model"]

    @classmethod
    def start(cls, run: _Runner, masks: Tensor, roots: Tensor, reference: Tensor) -> _Stream:
        many = len(roots)
        delta = (roots - reference[:many]).expand(len(masks), *roots.shape)
        return cls(run, masks.to(reference.dtype), delta, reference[:many].sum(0), reference)

    def finish(
        self, first: Float[Tensor, "circuit head batch seq d_model"], scored: Positions
    ) -> Float[Tensor, "circuit batch scored out"]:
        """Outputs, given what the first layer's heads write."""
        model, config = self.run.model, self.run.model.config
        for layer, block in enumerate(model.blocks):
            # In the last layer only the scored positions' queries and MLP reach the logits.
            at = scored if layer == config.n_layers - 1 else self.run.where
            result = self.attention(layer, at) if layer else first
            self.delta, self.constant, self.reference = map(at.take, (self.delta, self.constant, self.reference))
            before = self.constant
            self.add(result, block.attn.bias)
            if block.has_mlp:
                read = self.mixed([Site("mlp", layer)], block.mlp_reads(before, self.constant))
                self.add(block.mlp.write(block.mlp.neurons(block.ln2(read))), block.mlp.bias)
        return model.read(self.mixed([Site("logits")], self.constant)[:, 0])

    def add(self, written: Float[Tensor, "circuit source batch seq d_model"], bias: Tensor | None) -> None:
        """The next sources write to the streams."""
        first = self.delta.shape[1]
        reference = self.reference[first : first + written.shape[1]]
        self.delta = torch.cat([self.delta, written - reference], 1)
        self.constant = self.constant + reference.sum(0) + (0 if bias is None else bias)

    def mixed(
        self, readers: Sequence[Site], constant: Float[Tensor, "batch row d_model"], at: Positions | None = None
    ) -> Float[Tensor, "circuit reader batch row d_model"]:
        """Inputs of some readers, at all positions of the streams or at some of them."""
        columns = [self.run.graph.readers.index(reader) for reader in readers]
        part = self.weights[:, : self.delta.shape[1], columns].transpose(1, 2)
        moved = self.delta if at is None else at.take(self.delta)
        return (part @ moved.flatten(2)).unflatten(2, moved.shape[2:]) + constant

    def attention(self, layer: int, at: Positions) -> Float[Tensor, "circuit head batch row d_model"]:
        """What a layer's heads write at some positions."""
        block, where = self.run.model.blocks[layer], self.run.where

        def project(kind: str, rows: Positions) -> Tensor:
            x = block.ln1(self.mixed(self.run.graph.forks(kind, layer), rows.take(self.constant), rows))
            return block.attn.project_heads(kind, x.movedim(1, -2), rows)

        z = block.attn.attend(project("q", at), project("k", where), project("v", where), at, where)
        return block.attn.write_heads(z).movedim(-2, 1)
