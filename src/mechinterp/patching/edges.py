"""Exact effects of edges: one reader's view of one source at a time, everything downstream computed again.

Edge `u -> v`: v's input becomes `in_v + (u_other - u_this)`, before the layer norm. All edges from one source into one
layer share their normalised input, so a source costs one normalisation and one fused q, k, v product however many heads
read it; then each head's changed attention output is one patch of the residual stream (see `interventions.resume`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import (
    SEEN,
    Edge,
    Graph,
    HookedModel,
    Options,
    Pair,
    Site,
    example_names,
    join_names,
    labelled,
    patching_result,
    takes,
)
from mechinterp.interventions import (
    Start,
    ablated,
    as_transformer,
    on_model,
    quiet,
    resume,
    source_values,
)
from mechinterp.patching.runs import Runs


@takes("metric", "direction", "ablation", "inputs", "budget_mb")
def patch_edges(
    model: HookedModel | nn.Module, pair: Pair, *, edges: Sequence[str | Edge] | None = None, options: Options
) -> xr.Dataset:
    """Exact effect of every edge.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        edges: Only these, in this order; default all, readers in topological order.
        options: See `Options`.

    Returns:
        `effect` (`edge`, `example`), `clean` and `corrupted` (`example`). Positive means that keeping the edge helps.
        The attribute `seen` names the examples: a circuit or a curve made of these effects is judged on others.
        `visible` (`edge`): False where the source carries the same when it is ablated, at all positions that the reader
        reads, as positions do under resampling; the effect is then zero by construction, however much the model needs
        the edge.

    Raises:
        SiteError: If the model lacks one of the edges.
        UnsupportedError: If the model is no `Transformer`.

    Source: edge activation patching (Conmy et al. 2023; Hanna et al. 2024), exact.
    """
    model = as_transformer(model, "exact edge effects need", instead="use estimate_edges")
    options = options.for_model(model)
    graph = model.config.graph(options.inputs)
    chosen = graph.edges if edges is None else tuple(graph.check(edge) for edge in edges)
    pair = on_model(pair, model)
    with quiet(model):
        runs = Runs.of(model, pair, options)
        effect = _effects(runs, graph, chosen)
        seen = _visible(runs, graph)
    names = [str(edge) for edge in chosen]
    effects = labelled(effect, ["edge", "example"], {"edge": names})
    attrs = options.attrs("metric", "direction", "ablation", "inputs")
    attrs |= {SEEN: join_names(example_names(pair))}
    visible = labelled(np.array([edge in seen for edge in chosen], dtype=bool), ["edge"], {"edge": names})
    return patching_result(effects, runs.clean, runs.corrupted, method="exact", **attrs).assign(visible=visible)


@takes("metric", "ablation", "inputs")
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
        return _visible(Runs.of(model, pair, options), graph)


def _visible(runs: Runs, graph: Graph) -> frozenset[Edge]:
    steps, last = source_steps(runs, graph), graph.n_layers - 1
    tiny = 1000 * torch.finfo(steps.dtype).eps * source_values(runs.model, runs.base.acts, graph).abs().amax()

    def changed(where: Tensor) -> set[Site]:
        largest = where.abs().flatten(1).amax(1) > tiny
        return {site for site, differs in zip(graph.sources, largest.tolist(), strict=True) if differs}

    anywhere, scored = changed(steps), changed(runs.base.scored.take(steps))
    # What is read elsewhere in the last layer reaches no scored output, but for keys and values.
    ends = {
        reader
        for reader in graph.readers
        if reader.kind == "logits" or (reader.kind in ("q", "mlp") and reader.layer == last)
    }
    return frozenset(edge for edge in graph.edges if edge.source in (scored if edge.reader in ends else anywhere))


def source_steps(runs: Runs, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """From each source's value in the patched run to what replaces it."""
    this, other = (source_values(runs.model, run, graph) for run in (runs.base.acts, runs.other))
    return ablated(other, runs.options.ablation, batch_dim=1) - this


def _effects(runs: Runs, graph: Graph, edges: Sequence[Edge]) -> Float[Tensor, "edge batch"]:
    steps = source_steps(runs, graph)
    row = {site: i for i, site in enumerate(graph.sources)}
    effect = runs.clean.new_zeros(len(edges), len(runs.clean))
    groups: dict[tuple[int | None, str], list[int]] = {}
    for i, edge in enumerate(edges):
        groups.setdefault((edge.reader.layer, edge.reader.kind), []).append(i)
    many = runs.affordable(runs.base.acts.embed.shape[1])
    for (layer, kind), members in groups.items():
        # By source, so that edges which share a normalised input are computed together.
        members.sort(key=lambda i: row[edges[i].source])
        for first in range(0, len(members), many):
            part = members[first : first + many]
            sources = [row[edges[i].source] for i in part]
            forks = [edges[i].reader.index for i in part]
            if layer is None:
                start = _logits_start(runs, steps[sources])
            elif kind == "mlp":
                start = _mlp_start(runs, steps[sources], layer)
            else:
                start = _head_start(runs, steps, layer, kind, sources, forks)
            effect[part] = runs.effect(resume(runs.base, start))
    return effect


def _logits_start(runs: Runs, steps: Float[Tensor, "edge batch seq d_model"]) -> Start:
    layer, at = runs.model.config.n_layers, runs.base.scored
    return Start(layer, "pre", at.take(runs.base.acts.final) + at.take(steps), at)


def _mlp_start(runs: Runs, steps: Float[Tensor, "edge batch seq d_model"], layer: int) -> Start:
    block, acts, at = runs.model.blocks[layer], runs.base.acts, runs.base.needed(layer + 1, "pre")
    pre, mid = at.take(acts.resid_pre[layer]), at.take(acts.resid_mid[layer])
    return Start(layer + 1, "pre", block.add_mlp(mid, block.mlp_reads(pre, mid) + at.take(steps)), at)


def _head_start(runs: Runs, steps: Tensor, layer: int, kind: str, sources: list[int], readers: list[int]) -> Start:
    """q, k or v of a layer; `steps` are those of all sources, `readers` the places of what the edges end at."""
    base, acts, block = runs.base, runs.base.acts, runs.model.blocks[layer]
    at = base.needed(layer, "mid")
    rows = at if kind == "q" else acts.where
    unique = sorted(set(sources))
    x = block.ln1(rows.take(acts.resid_pre[layer]) + rows.take(steps[unique]))
    forks = {"q": at.take(acts.q[layer], 2)[None], "k": acts.k[layer][None], "v": acts.v[layer][None]}
    (forks[kind],) = block.attn.project(kind, x, rows)
    z = block.attn.attend(forks["q"], forks["k"], forks["v"], at, acts.where)
    number = {source: i for i, source in enumerate(unique)}
    edge = torch.tensor([number[source] for source in sources], device=z.device)
    reader = torch.tensor(readers, device=z.device)
    delta = block.attn.write_edges(kind, z - at.take(acts.z[layer], 2), edge, reader)
    if base.mixes_after(layer, "mid"):
        at = at.since(_first_change(delta))
        delta = at.take(delta)
    return Start(layer, "mid", at.take(acts.resid_mid[layer]) + delta, at)


def _first_change(delta: Float[Tensor, "edge batch seq d_model"]) -> int:
    """The first position at which anything differs."""
    changed = delta.ne(0).any(-1).flatten(0, 1).any(0)
    return int(changed.to(torch.int8).argmax())
