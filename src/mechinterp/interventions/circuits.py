"""Run circuits: an absent edge carries the reference's value, a present one the value of this very run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.core import Circuit, ConfigError, Graph, Inputs, Metric, Pair, Site, UnsupportedError
from mechinterp.interventions.activations import activations, neurons, source_values
from mechinterp.interventions.hooks import check_unhooked, quiet
from mechinterp.interventions.reference import Ablation, ablated, check_ablation
from mechinterp.interventions.resume import Resumer, attention, rotate, take
from mechinterp.interventions.scoring import Scorer, on_model
from mechinterp.models import Transformer

BUDGET_MB = 16.0
"""Small on purpose: what stays in the processor's cache runs more than twice as fast as all at once."""
BLOCK = 32
"""Examples that are run together."""


def score_circuits(
    model: Any,
    pair: Pair,
    circuits: Sequence[Circuit],
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
    budget_mb: float = BUDGET_MB,
) -> Float[Tensor, "circuit batch"]:
    """The metric of every circuit, run on the clean inputs with all other edges ablated.

    A reader's input is the sum over sources of this run's value where the edge is in the circuit and of the
    reference's where it is not, plus all biases; the layer norm sees that sum.

    Args:
        model: A `Transformer`.
        pair: Clean inputs to run on, corrupted ones for the reference.
        circuits: What to run; all in one input convention.
        metric: A name or a function.
        ablation: Where the reference comes from.
        budget_mb: Memory for activations; circuits are run together as far as it allows.

    Returns:
        One value per circuit and example, `[circuit, batch]`.

    Raises:
        SiteError: If a circuit has an edge that the model has not.
        ConfigError: If circuits mix input conventions.
    """
    check_ablation(ablation)
    if not circuits:
        raise ConfigError("no circuits to run")
    conventions = {circuit.inputs for circuit in circuits}
    if len(conventions) > 1:
        raise ConfigError("circuits mix inputs='merged' and inputs='split'")
    graph = graph_of(model, circuits[0].inputs)
    check_unhooked(model)
    masks = edge_masks(graph, circuits).to(model.device)
    pair = on_model(pair, model)
    with quiet(model):
        clean = activations(model, pair.clean.inputs)
        reference = source_values(model, activations(model, pair.corrupted.inputs), graph)
        reference = ablated(reference, ablation, batch_dim=1)
        roots = source_values(model, clean, graph)[: len(graph.roots)]
        _, positions, _ = pair.clean.at_scored()
        scorer = Scorer.of(pair, metric, Resumer.at(model, clean, positions).output)
        run = _Runner(model, graph, clean.shift, budget_mb)
        blocks = zip(roots.split(BLOCK, 1), reference.split(BLOCK, 1), positions.split(BLOCK), strict=True)
        return scorer(torch.cat([run(masks, *block) for block in blocks], 1))


def graph_of(model: Any, inputs: Inputs = "merged") -> Graph:
    """The edges of a model that circuits can be run in.

    Raises:
        UnsupportedError: If they cannot be run in it.
    """
    if not isinstance(model, Transformer):
        raise UnsupportedError(f"circuits run in a mechinterp Transformer; a {type(model).__name__} lists no edges")
    return model.config.graph(inputs)


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
    shift: Tensor | None
    budget_mb: float

    def __call__(
        self,
        masks: Bool[Tensor, "circuit source reader"],
        roots: Float[Tensor, "root batch seq d_model"],
        reference: Float[Tensor, "source batch seq d_model"],
        positions: Int[Tensor, "batch kept"],
    ) -> Float[Tensor, "circuit batch kept out"]:
        """Outputs at the scored positions."""
        heads, many = range(self.graph.n_heads), len(roots)
        columns = [[self.graph.readers.index(Site(kind, 0, head)) for kind in "qkv"] for head in heads]
        seen = masks[:, :many, columns].permute(0, 2, 1, 3).flatten(2)
        variants, which = seen.flatten(0, 1).unique(dim=0, return_inverse=True)
        as_masks = torch.zeros(len(variants), *masks.shape[1:], dtype=torch.bool, device=masks.device)
        as_masks[:, :many, columns] = variants.unflatten(1, (many, 1, 3)).expand(-1, -1, len(heads), -1)
        at = positions if self.graph.n_layers == 1 else None
        first = torch.cat([_Stream.start(self, part, roots, reference).attention(0, at) for part in as_masks.split(4)])
        which = which.unflatten(0, (len(masks), -1))
        size = len(self.graph.sources) * 3 * roots[0].numel() * roots.element_size() / 2**20
        chunk = max(1, int(self.budget_mb / size))
        made = []
        for part, pick in zip(masks.split(chunk), which.split(chunk), strict=True):
            written = first[pick, torch.arange(len(heads), device=pick.device)]
            made.append(_Stream.start(self, part, roots, reference).finish(written, positions))
        return torch.cat(made)


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

    def finish(self, first: Tensor, positions: Tensor) -> Float[Tensor, "circuit batch kept out"]:
        """Outputs, given what the first layer's heads write."""
        model, config = self.run.model, self.run.model.config
        for layer, block in enumerate(model.blocks):
            # In the last layer only the scored positions' queries and MLP reach the logits.
            at = positions if layer == config.n_layers - 1 else None
            result = self.attention(layer, at) if layer else first
            if at is not None:
                self.delta, self.constant = take(self.delta, at), take(self.constant, at)
                self.reference = take(self.reference, at)
            self.add(result, block.attn.b_O if config.attn_bias else None)
            if block.has_mlp:
                written = neurons(block, self.mixed([Site("mlp", layer)])[:, 0]) @ block.mlp.W_out
                self.add(written[:, None], block.mlp.b_out)
        return model.read(self.mixed([Site("logits")])[:, 0])

    def add(self, written: Float[Tensor, "circuit source batch seq d_model"], bias: Tensor | None) -> None:
        """The next sources have written to the streams."""
        first = self.delta.shape[1]
        reference = self.reference[first : first + written.shape[1]]
        self.delta = torch.cat([self.delta, written - reference], 1)
        self.constant = self.constant + reference.sum(0) + (0 if bias is None else bias)

    def mixed(self, readers: Sequence[Site], at: Tensor | None = None) -> Tensor:
        """Inputs of some readers, `[circuit, reader, batch, seq or kept, d_model]`."""
        columns = [self.run.graph.readers.index(reader) for reader in readers]
        part = self.weights[:, : self.delta.shape[1], columns].transpose(1, 2)
        base, moved = self.constant, self.delta
        if at is not None:
            base, moved = take(base, at), take(moved, at)
        return (part @ moved.flatten(2)).unflatten(2, moved.shape[2:]) + base

    def attention(self, layer: int, at: Tensor | None) -> Float[Tensor, "circuit head batch seq d_model"]:
        """What a layer's heads write, at all positions or at the scored ones."""
        run, config = self.run, self.run.model.config
        block, made = run.model.blocks[layer], []
        for kind in "qkv":
            where = at if kind == "q" else None
            x = block.ln1(self.mixed([Site(kind, layer, head) for head in range(config.n_heads)], where))
            if run.shift is not None and kind != "v":
                x = x + (run.shift if where is None else run.shift[where])
            out = torch.einsum("chbsm,hmd->cbshd", x, getattr(block.attn, f"W_{kind.upper()}"))
            made.append(out + getattr(block.attn, f"b_{kind.upper()}") if config.attn_bias else out)
        q, k, v = made
        steps = torch.arange(k.shape[-3], device=k.device)
        queries = steps if at is None else at
        if config.positions == "rotary":
            q, k = rotate(block.attn, q, queries), rotate(block.attn, k, steps)
        queries = steps[:, None] if at is None else at[:, None, :, None]
        z = attention(block.attn, q, k, v, steps <= queries if config.causal else None)
        return torch.einsum("cbshd,hdm->chbsm", z, block.attn.W_O)
