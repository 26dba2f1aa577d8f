"""Exact effects of edges: one reader's view of one source at a time, everything downstream computed again.

Edge `u -> v`: v's input becomes `in_v + (u_other - u_this)`, before the layer norm. All edges from one source into one
layer share their normalised input, so a source costs one normalisation and one fused q, k, v product however many heads
read it; then each head's changed attention output is one patch of the residual stream (see `interventions.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from mechinterp.core.progress import Bars, Progress
from mechinterp.interventions import Start, as_transformer, on_model, quiet, resume, source_steps
from mechinterp.patching.choose import EdgeChoice, chosen_edges
from mechinterp.patching.parts import edge_parts, shared_mean
from mechinterp.patching.runs import Runs
from mechinterp.patching.visible import View, visible_in


@takes("metric", "direction", "ablation", "inputs", "budget_mb")
def patch_edges(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    edges: EdgeChoice | None = None,
    top: int | None = None,
    progress: bool | Progress = False,
    options: Options,
) -> xr.Dataset:
    """Exact effect of every edge, or of some.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        edges: Only these; time goes by what is asked for. Addresses of edges and of readers (`L1.H0.k`: every edge into
            it) in their order, a `Circuit`, or an estimate (what `estimate_edges` returned), the largest first. Default
            all, readers in topological order.
        top: Only so many of an estimate.
        progress: True for a bar with a forecast, or a function called with (what, done, total); counted are layers that
            run again for an edge and an example.
        options: See `Options`.

    Returns:
        `effect` (`edge`, `example`), `clean` and `corrupted` (`example`). Positive means that keeping the edge helps.
        The attribute `seen` names the examples: a circuit or a curve made of these effects is judged on others.
        `visible` (`edge`): False where the source carries the same when it is ablated, at all positions that the reader
        reads, as positions do under resampling; the effect is then zero by construction, however much the model needs
        the edge.

    Raises:
        SiteError: If the model lacks one of the edges.
        ConfigError: If a circuit has the other input convention, or `top` has no meaning.
        UnsupportedError: If the model is no `Transformer`.

    Source: edge activation patching (Conmy et al. 2023; Hanna et al. 2024), exact.
    """
    model = as_transformer(model, "exact edge effects need", instead="use estimate_edges")
    options = options.for_model(model)
    graph = model.config.graph(options.inputs)
    chosen = chosen_edges(graph, edges, top)
    pair = on_model(pair, model)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    views: list[View] = []
    with quiet(model), Bars(progress) as report:
        parts = edge_parts(model, pair, graph, options)
        mean = shared_mean(model, parts, options)
        total = len(pair) * sum(_layers_again(graph, edge.reader) for edge in chosen)
        done = 0
        for part in parts:

            def tell(edges: Sequence[Edge], examples: int = len(part)) -> None:
                nonlocal done
                done += examples * sum(_layers_again(graph, edge.reader) for edge in edges)
                report("layers run again", done, total)

            runs = Runs.of(model, part, options, mean)
            steps = source_steps(model, runs.base.acts, runs.other, options.ablation, graph)
            columns.append((_effects(runs, graph, steps, chosen, tell), runs.clean, runs.corrupted))
            views.append(View.of(runs, graph, steps))
    effect, clean, corrupted = (torch.cat(each, -1) for each in zip(*columns, strict=True))
    seen = visible_in(graph, views)
    names = [str(edge) for edge in chosen]
    effects = labelled(effect, ["edge", "example"], {"edge": names})
    attrs = options.attrs("metric", "direction", "ablation", "inputs")
    attrs |= {SEEN: join_names(example_names(pair))}
    visible = labelled(np.array([edge in seen for edge in chosen], dtype=bool), ["edge"], {"edge": names})
    return patching_result(effects, clean, corrupted, method="exact", **attrs).assign(visible=visible)


def _layers_again(graph: Graph, reader: Site) -> int:
    """Layers that run again for an edge into a reader, the unembedding counted as one."""
    return 1 + (0 if reader.layer is None else graph.n_layers - reader.layer)


def _effects(
    runs: Runs,
    graph: Graph,
    steps: Float[Tensor, "source batch seq d_model"],
    edges: Sequence[Edge],
    tell: Callable[[Sequence[Edge]], None],
) -> Float[Tensor, "edge batch"]:
    """Effects of some edges; `tell` hears of those that are done."""
    row = {site: i for i, site in enumerate(graph.sources)}
    first = _first_changes(steps)
    effect = runs.clean.new_zeros(len(edges), len(runs.clean))
    groups: dict[tuple[int | None, str], list[int]] = {}
    for i, edge in enumerate(edges):
        groups.setdefault((edge.reader.layer, edge.reader.kind), []).append(i)
    many = runs.affordable(steps.shape[2])
    for (layer, kind), members in groups.items():
        # By source, so that edges which share a normalised input are computed together. What is equal in both runs
        # changes nothing.
        moving = sorted(
            (i for i in members if first[row[edges[i].source]] is not None), key=lambda i: row[edges[i].source]
        )
        tell([edges[i] for i in set(members).difference(moving)])
        for begin in range(0, len(moving), many):
            part = moving[begin : begin + many]
            sources = [row[edges[i].source] for i in part]
            if layer is None:
                start = _logits_start(runs, steps[_index(sources, steps)])
            elif kind == "mlp":
                start = _mlp_start(runs, steps[_index(sources, steps)], layer)
            else:
                since = min(place for place in (first[source] for source in sources) if place is not None)
                forks = [edges[i].reader.index for i in part]
                start = _head_start(runs, steps, layer, kind, sources, forks, since)
            effect[_index(part, steps)] = runs.effect(resume(runs.base, start))
            tell([edges[i] for i in part])
    return effect


def _first_changes(steps: Float[Tensor, "source batch seq d_model"]) -> list[int | None]:
    """The first position at which each source differs between the runs; None where it never does."""
    changed = steps.ne(0).any(-1).any(1)
    first = torch.where(changed.any(-1), changed.to(torch.int8).argmax(-1), -1)
    return [None if place < 0 else place for place in first.tolist()]


def _index(numbers: Sequence[int], values: Tensor) -> Tensor:
    """Numbers as an index into values, where these are."""
    return torch.tensor(numbers).to(values.device)


def _logits_start(runs: Runs, steps: Float[Tensor, "edge batch seq d_model"]) -> Start:
    layer, at = runs.model.config.n_layers, runs.base.scored
    return Start(layer, "pre", at.take(runs.base.acts.final) + at.take(steps), at)


def _mlp_start(runs: Runs, steps: Float[Tensor, "edge batch seq d_model"], layer: int) -> Start:
    block, acts, at = runs.model.blocks[layer], runs.base.acts, runs.base.needed(layer + 1, "pre")
    pre, mid = at.take(acts.resid_pre[layer]), at.take(acts.resid_mid[layer])
    return Start(layer + 1, "pre", block.add_mlp(mid, block.mlp_reads(pre, mid) + at.take(steps)), at)


def _head_start(
    runs: Runs, steps: Tensor, layer: int, kind: str, sources: list[int], readers: list[int], since: int
) -> Start:
    """q, k or v of a layer.

    Args:
        runs: The runs to patch between.
        steps: Those of all sources.
        layer: The layer.
        kind: `q`, `k` or `v`.
        sources: Of each edge, as a row of the steps.
        readers: Of each edge, as a place on the head axis.
        since: No source differs before this position.
    """
    base, acts, block = runs.base, runs.base.acts, runs.model.blocks[layer]
    # A query's change stays where it is; a key's or value's reaches earlier queries only in a model that is not causal.
    at = base.needed(layer, "mid", since if kind == "q" or runs.model.config.causal else 0)
    rows = at if kind == "q" else acts.where
    unique = sorted(set(sources))
    x = block.ln1(rows.take(acts.resid_pre[layer]) + rows.take(steps[_index(unique, steps)]))
    forks = {"q": at.take(acts.q[layer], 2)[None], "k": acts.k[layer][None], "v": acts.v[layer][None]}
    (forks[kind],) = block.attn.project(kind, x, rows)
    z = block.attn.attend(forks["q"], forks["k"], forks["v"], at, acts.where)
    number = {source: i for i, source in enumerate(unique)}
    edge, reader = _index([number[source] for source in sources], steps), _index(readers, steps)
    delta = block.attn.write_edges(kind, z - at.take(acts.z[layer], 2), edge, reader)
    return Start(layer, "mid", at.take(acts.resid_mid[layer]) + delta, at)
