"""Run circuits: an absent edge carries the reference's value, a present one the value of this very run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechinterp.core import Circuit, ConfigError, Graph, Metric, Pair, UnsupportedError
from mechinterp.interventions.activations import activations, neurons, source_values
from mechinterp.interventions.hooks import check_unhooked, quiet
from mechinterp.interventions.reference import Ablation, ablated, check_ablation
from mechinterp.interventions.resume import Resumer, attention, rotate, take
from mechinterp.interventions.scoring import Scorer, on_model
from mechinterp.models import Transformer

BUDGET_MB = 256.0


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
    if not isinstance(model, Transformer):
        raise UnsupportedError(f"circuits run on a Transformer, not on {type(model).__name__}")
    conventions = {circuit.inputs for circuit in circuits}
    if len(conventions) > 1:
        raise ConfigError("circuits mix inputs='merged' and inputs='split'")
    check_unhooked(model)
    graph = model.config.graph(circuits[0].inputs)
    masks = edge_masks(graph, circuits).to(model.device)
    pair = on_model(pair, model)
    with quiet(model):
        clean = activations(model, pair.clean.inputs)
        reference = source_values(model, activations(model, pair.corrupted.inputs), graph)
        reference = ablated(reference, ablation, batch_dim=1)
        roots = source_values(model, clean, graph)[: len(graph.roots)]
        _, positions, _ = pair.clean.at_scored()
        scorer = Scorer.of(pair, metric, Resumer.at(model, clean, positions).output)
        readers = max(len(graph.roots) + 3 * model.config.n_heads, len(graph.sources))
        size = roots[0].numel() * roots.element_size() * readers * 4 / 2**20
        chunk = max(1, int(budget_mb / size))
        values = [
            scorer(_run(model, graph, part, roots, reference, positions, clean.shift)) for part in masks.split(chunk)
        ]
    return torch.cat(values)


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


def _run(
    model: Transformer,
    graph: Graph,
    masks: Bool[Tensor, "circuit source reader"],
    roots: Float[Tensor, "root batch seq d_model"],
    reference: Float[Tensor, "source batch seq d_model"],
    positions: Tensor,
    shift: Tensor | None,
) -> Float[Tensor, "circuit batch kept out"]:
    config, count = model.config, masks.shape[0]
    weights = masks.to(reference.dtype)
    # Only differences from the reference travel: a reader starts from the sum of all references and biases.
    delta = (roots - reference[: len(roots)]).expand(count, *roots.shape)
    constant = reference[: len(roots)].sum(0)
    reader = 0

    def mixed(first: int, many: int, at: Tensor | None = None) -> Tensor:
        """Inputs of some readers, `[circuit, reader, batch, seq, d_model]`."""
        part = weights[:, : delta.shape[1], first : first + many].transpose(1, 2)
        base, moved = (constant, delta) if at is None else (take(constant, at), take(delta, at))
        return (part @ moved.flatten(2)).unflatten(2, moved.shape[2:]) + base

    for block in model.blocks:
        attn: Any = block.attn
        heads = config.n_heads
        x: Any = block.ln1(mixed(reader, 3 * heads))
        # Readers lie in the order head 0's q, k, v, head 1's q, k, v, ...
        x = x.unflatten(1, (heads, 3)).movedim(2, 0)
        made = []
        for i, kind in enumerate("QKV"):
            inner = x[i] if shift is None or kind == "V" else x[i] + shift
            out = torch.einsum("chbsm,hmd->cbshd", inner, getattr(attn, f"W_{kind}"))
            made.append(out + getattr(attn, f"b_{kind}") if config.attn_bias else out)
        q, k, v = made
        at = torch.arange(q.shape[-3], device=q.device)
        if config.positions == "rotary":
            q, k = rotate(attn, q, at), rotate(attn, k, at)
        z = attention(attn, q, k, v, at <= at[:, None] if config.causal else None)
        result = torch.einsum("cbshd,hdm->chbsm", z, attn.W_O)
        first = delta.shape[1]
        delta = torch.cat([delta, result - reference[first : first + heads]], 1)
        constant = constant + reference[first : first + heads].sum(0)
        if config.attn_bias:
            constant = constant + attn.b_O
        reader += 3 * heads
        if block.has_mlp:
            mlp: Any = block.mlp
            written = neurons(block, mixed(reader, 1)[:, 0]) @ mlp.W_out
            delta = torch.cat([delta, (written - reference[first + heads])[:, None]], 1)
            constant = constant + reference[first + heads] + mlp.b_out
            reader += 1
    return model.read(mixed(reader, 1, positions)[:, 0])
