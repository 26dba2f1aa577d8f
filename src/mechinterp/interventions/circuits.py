"""Run circuits: an absent edge carries the reference's value, a present one the value of this very run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mechinterp.core import Circuit, ConfigError, Edge, Graph, HookedModel, Options, Pair, takes
from mechinterp.core.memo import remembered
from mechinterp.interventions.activations import activations, source_values
from mechinterp.interventions.hooks import in_turn, quiet
from mechinterp.interventions.placement import as_transformer, on_model
from mechinterp.interventions.reference import ablated
from mechinterp.interventions.runner import Runner
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
        scorer, runners = runners_of(model, pair, graph, options)
        return scorer(torch.cat([runner(masks) for runner in runners], 1))


@takes("metric", "ablation", "inputs")
def score_gates(
    model: HookedModel | nn.Module,
    pair: Pair,
    edges: Sequence[Edge],
    gates: Float[Tensor, " edge"],
    *,
    options: Options,
) -> Float[Tensor, " batch"]:
    """The metric where each edge carries a share of this run's value and, for the rest, the reference's.

    Args:
        model: A `Transformer`.
        pair: Clean inputs to run on, corrupted ones for the reference.
        edges: Some edges; all others carry the reference's value.
        gates: Their shares. The result is differentiable in them, where the metric is.
        options: See `Options`.

    Raises:
        SiteError: If the model lacks an edge.
    """
    model = as_transformer(model, RUNNER)
    graph = graph_of(model, options.inputs)
    places = torch.tensor([graph.place(edge) for edge in edges], device=model.device)
    weights = gates.new_zeros(1, len(graph.sources), len(graph.readers)).index_put((0 * places[:, 0], *places.T), gates)
    with in_turn(model):
        with torch.no_grad():
            scorer, runners = runners_of(model, pair, graph, options)
        return scorer(torch.cat([runner.start(weights).finish() for runner in runners], 1))[0]


def runners_of(model: Transformer, pair: Pair, graph: Graph, options: Options) -> tuple[Scorer, list[Runner]]:
    """What runs circuits on a pair, some examples each, and what scores their outputs, put together again."""
    # A search asks for block after block of circuits on one pair.
    ends = remembered(
        "runs", (model, pair, graph.inputs, options.ablation), partial(_ends, model, pair, graph, options.ablation)
    )
    scorer = Scorer.of(ends.pair, options.for_model(model), ends.output)
    where = ends.where.of_examples(BLOCK, len(pair))
    parts = zip(
        where, scorer.positions.split(BLOCK), ends.roots.split(BLOCK, 1), ends.reference.split(BLOCK, 1), strict=True
    )
    memory = options.memory(BUDGET_MB, model.device)
    return scorer, [Runner(model, graph, memory, at, at.pick(scored), *sides) for at, scored, *sides in parts]


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


def _ends(model: Transformer, pair: Pair, graph: Graph, ablation: str) -> _Ends:
    pair = on_model(pair, model)
    clean = activations(model, pair.clean.inputs)
    reference = source_values(model, activations(model, pair.corrupted.inputs), graph)
    roots = source_values(model, clean, graph)[: len(graph.roots)]
    output = model.read(take(clean.final, pair.clean.at_scored()[1]))
    return _Ends(pair, clean.where, roots, ablated(reference, ablation, batch_dim=1), output)


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
    masks = torch.zeros(len(circuits), len(graph.sources), len(graph.readers), dtype=torch.bool)
    index = [(i, *graph.place(edge)) for i, circuit in enumerate(circuits) for edge in circuit.edges]
    if index:
        masks[tuple(torch.tensor(index).T)] = True
    return masks
