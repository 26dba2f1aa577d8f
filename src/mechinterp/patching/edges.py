"""Exact effects of edges: one reader's view of one source at a time, everything downstream computed again.

Edge `u -> v`: v's input becomes `in_v + (u_other - u_this)`, before the layer norm. All edges from one source into one
layer share their normalised input, so a source costs one normalisation and one fused q, k, v product however many heads
read it; then each head's changed attention output is one patch of the residual stream (see `interventions.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Edge, Graph, Inputs, Metric, Pair, UnsupportedError, labelled, patching_result
from mechinterp.interventions import (
    Ablation,
    Direction,
    ablated,
    check_ablation,
    check_unhooked,
    on_model,
    quiet,
    source_values,
    take,
)
from mechinterp.interventions.resume import project_one
from mechinterp.models import Transformer
from mechinterp.patching.runs import Runs

BUDGET_MB = 64.0


def patch_edges(
    model: Any,
    pair: Pair,
    direction: Direction = "noise",
    ablation: Ablation = "resample",
    metric: str | Metric = "logit_diff",
    inputs: Inputs = "merged",
    edges: Sequence[str | Edge] | None = None,
    budget_mb: float = BUDGET_MB,
) -> xr.Dataset:
    """Exact effect of every edge.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        direction: `noise` puts the other value into the clean run, `denoise` the clean value into the corrupted run.
        ablation: With `noise`, what the other value is.
        metric: A name or a function.
        inputs: Embedding and positions as one source (`merged`) or two (`split`).
        edges: Only these, in this order; default all, readers in topological order.
        budget_mb: Memory for the activations of the patched runs; it changes the time, not the result.

    Returns:
        `effect` (`edge`, `example`), `clean` and `corrupted` (`example`). Positive means that keeping the edge helps.

    Raises:
        SiteError: If the model lacks one of the edges.
        UnsupportedError: If the model is no `Transformer`.

    Source: edge activation patching (Conmy et al. 2023; Hanna et al. 2024), exact.
    """
    check_ablation(ablation, direction)
    if not isinstance(model, Transformer):
        raise UnsupportedError(
            f"exact edge effects need a Transformer, not a {type(model).__name__}: use estimate_edges"
        )
    check_unhooked(model)
    graph = model.config.graph(inputs)
    asked = graph.edges if edges is None else tuple(graph.check(edge) for edge in edges)
    pair = on_model(pair, model)
    with quiet(model):
        runs = Runs.of(model, pair, metric, direction, ablation)
        effect = _effects(runs, graph, asked, budget_mb)
    made = labelled(effect, ["edge", "example"], {"edge": [str(edge) for edge in asked]})
    attrs = {"direction": direction, "ablation": ablation, "inputs": inputs}
    return patching_result(made, runs.clean, runs.corrupted, metric=runs.scorer.name, method="exact", **attrs)


def source_steps(runs: Runs, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """From each source's value in the patched run to what replaces it."""
    this, other = (source_values(runs.model, run, graph) for run in (runs.this, runs.other))
    return ablated(other, runs.ablation, batch_dim=1) - this


def _effects(runs: Runs, graph: Graph, asked: Sequence[Edge], budget_mb: float) -> Float[Tensor, "edge batch"]:
    steps = source_steps(runs, graph)
    row = {site: i for i, site in enumerate(graph.sources)}
    effect = runs.clean.new_zeros(len(asked), len(runs.clean))
    groups: dict[tuple[int | None, str], list[int]] = {}
    for i, edge in enumerate(asked):
        groups.setdefault((edge.reader.layer, edge.reader.kind), []).append(i)
    many = runs.affordable(runs.this.embed.shape[1], budget_mb)
    for (layer, kind), members in groups.items():
        # By source, so that edges which share a normalised input are computed together.
        members.sort(key=lambda i: row[asked[i].source])
        sources = [row[asked[i].source] for i in members]
        heads = [asked[i].reader.head or 0 for i in members]
        if layer is None:
            run = _read_logits(runs, steps)
        elif kind == "mlp":
            run = _read_mlp(runs, steps, layer)
        else:
            run = _read_head(runs, steps, layer, kind)
        for first in range(0, len(members), many):
            part = slice(first, first + many)
            effect[members[part]] = runs.effect(run(sources[part], heads[part]))
    return effect


Run = Callable[[list[int], list[int]], Float[Tensor, "edge batch kept out"]]


def _read_logits(runs: Runs, steps: Tensor) -> Run:
    resumer = runs.resumer
    base = take(runs.this.final, resumer.positions)

    def run(sources: list[int], heads: list[int]) -> Tensor:
        return resumer.from_final_kept(base + take(steps[sources], resumer.positions))

    return run


def _read_mlp(runs: Runs, steps: Tensor, layer: int) -> Run:
    resumer, block = runs.resumer, runs.model.blocks[layer]
    last = layer == runs.model.config.n_layers - 1
    read, after = runs.this.resid_mid[layer], runs.this.resid_pre[layer + 1]
    if last:
        read, after, steps = (take(value, resumer.positions) for value in (read, after, steps))
    written = block.mlp(block.ln2(read))

    def run(sources: list[int], heads: list[int]) -> Tensor:
        resid = after + block.mlp(block.ln2(read + steps[sources])) - written
        return resumer.from_final_kept(resid) if last else resumer.from_pre(layer + 1, resid)

    return run


def _read_head(runs: Runs, steps: Tensor, layer: int, kind: str) -> Run:
    """q, k or v of a layer's heads."""
    resumer, block, config = runs.resumer, runs.model.blocks[layer], runs.model.config
    attn: Any = block.attn
    last = layer == config.n_layers - 1
    this = {name: getattr(runs.this, name)[layer] for name in "qkv"}
    shift = runs.this.shift if kind in "qk" else None
    few = last and kind == "q"

    def at_scored(value: Tensor) -> Tensor:
        return take(value.flatten(-2), resumer.positions).unflatten(-1, value.shape[-2:])

    if last:
        this["q"] = at_scored(this["q"])
    before = at_scored(runs.this.z[layer]) if last else runs.this.z[layer]
    base = take(runs.this.resid_mid[layer], resumer.positions) if last else runs.this.resid_mid[layer]

    def run(sources: list[int], heads: list[int]) -> Tensor:
        unique = sorted(set(sources))
        resid = runs.this.resid_pre[layer] + steps[unique]
        x = block.ln1(resid)
        moved = shift
        if few:
            x = take(x, resumer.positions)
            moved = None if shift is None else shift[resumer.positions]
        parts = {name: value[None] for name, value in this.items()}
        parts[kind] = project_one(attn, kind, x, moved)
        z = resumer.attend(layer, parts["q"], parts["k"], parts["v"], kept=last)
        index = {source: i for i, source in enumerate(unique)}
        rows = torch.tensor([index[source] for source in sources], device=z.device)
        cols = torch.tensor(heads, device=z.device)
        change = z[rows, :, :, cols] - before[:, :, cols].movedim(2, 0)
        delta = torch.einsum("ebsd,edm->ebsm", change, attn.W_O[cols])
        if last:
            return resumer.from_mid_kept(base + delta)
        start = _first_change(delta) if config.causal else 0
        return resumer.from_mid(layer, (base + delta)[:, :, start:], start)

    return run


def _first_change(delta: Float[Tensor, "edge batch seq d_model"]) -> int:
    """The first position at which anything differs: before it a causal model computes what it did."""
    changed = delta.ne(0).any(-1).flatten(0, 1).any(0)
    return int(changed.to(torch.int8).argmax())
