"""Gradient estimates of edge effects: for models where exact effects cost too much, and to be examined.

All are first-order: `(clean value - other value) . gradient`, signed as the exact effects are.

The gradients of readers are never all in memory: a layer's are made from those of its queries, keys, values and MLP,
multiplied with what the sources before it write, and dropped. Examples are run in parts that fit the budget.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import (
    SEEN,
    ConfigError,
    HookedModel,
    Options,
    Pair,
    UnsupportedError,
    example_names,
    join_names,
    labelled,
    patching_result,
    takes,
)
from mechinterp.core.progress import Bars, Progress
from mechinterp.interventions import Scorer, as_hooked, as_transformer, in_turn, on_model, placement
from mechinterp.models import Transformer
from mechinterp.patching.edges import patch_edges
from mechinterp.patching.foreign import ForeignWires, foreign_graph, forked
from mechinterp.patching.interpolation import Interpolation
from mechinterp.patching.parts import parts_of
from mechinterp.patching.readers import OwnWires, Wires

ESTIMATE_MB = 256.0
"""More examples at a time make no estimate faster."""


@takes("metric", "ablation", "inputs", "budget_mb")
def estimate_edges(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    method: str = "eap-ig",
    steps: int = 10,
    verify: int = 0,
    progress: bool | Progress = False,
    options: Options,
) -> xr.Dataset:
    """Estimated effect of every edge, in the shape of `patch_edges` with `direction="noise"`.

    Args:
        model: A `Transformer`, or a `TransformerBridge` with per-head inputs (not a native one).
        pair: Clean and corrupted inputs.
        method: `eap` takes the gradient at the clean run; `eap-ig` averages it over `steps` points from the corrupted
            embedding (included) to the clean one (left out); `eap-ig-activations` over `steps` points from the clean
            value of the source's component (included) to what replaces it (left out); `clean-corrupted` averages the
            two endpoints. A component is the inputs, the heads of a layer, or an MLP.
        steps: Points of `eap-ig` and `eap-ig-activations`; the latter runs them once for each component.
        verify: How many edges, those of the largest absolute estimate, to measure exactly too; needs a `Transformer`.
        progress: True for bars with a forecast, or a function called with (what, done, total).
        options: See `Options`; the metric is differentiable.

    Returns:
        `effect` (`edge`, `example`), `clean` and `corrupted` (`example`). With `verify` also `exact` (`edge`,
        `example`), NaN where it was not measured, and as attributes, of mean effects: `correlation`, `sign_agreement`
        (the share of equal signs) and `largest_deviation` (in the metric's unit).

    Raises:
        ConfigError: If the method is unknown, `steps` is below 1 or `verify` below 0.
        UnsupportedError: If the model has no such edges (grouped-query attention, parallel MLPs, no per-head inputs).

    Source: Syed et al. 2023 (EAP); Hanna et al. 2024 (EAP-IG inputs, EAP-IG activations, clean-corrupted). Differs:
    per-example sums, and positive means that keeping the edge helps. In EAP-IG activations an edge's gradient is taken
    in the runs in which its own source moves. The published code averages over the runs of all components; a component
    that moves passes no gradient on to what it reads, so its estimates are not exact even in a linear model.
    """
    way = Interpolation.of(method, steps)
    if verify < 0:
        raise ConfigError(f"verify={verify}: a number of edges, 0 for none")
    if verify:
        as_transformer(model, "the exact effects of verify= need")
    pair, options = on_model(pair, model), options.for_model(model)
    if isinstance(model, Transformer):
        wires: Wires = OwnWires(model, model.config.graph(options.inputs))
        effect, clean, corrupted = _estimated(model, wires, pair, way, options, progress)
    else:
        graph = foreign_graph(model, options.inputs)
        if options.ablation == "zero":
            raise UnsupportedError("ablation='zero' needs a Transformer: a bridge's MLP hands over its bias as well")
        model = as_hooked(model)
        with forked(model):
            wires = ForeignWires(model, graph)
            effect, clean, corrupted = _estimated(model, wires, pair, way, options, progress)
    effects = labelled(effect, ["edge", "example"], {"edge": [str(edge) for edge in wires.graph.edges]})
    attrs = {"direction": "noise", "steps": len(way.points), **options.attrs("metric", "ablation", "inputs")}
    attrs |= {SEEN: join_names(example_names(pair))}
    result = patching_result(effects, clean, corrupted, method=method, **attrs)
    return verified(result, model, pair, verify, progress, options) if verify else result


def verified(
    estimate: xr.Dataset,
    model: HookedModel | nn.Module,
    pair: Pair,
    count: int,
    progress: bool | Progress,
    options: Options,
) -> xr.Dataset:
    """An estimate with the exact effects of its largest edges beside it, and how well both agree there."""
    exact = patch_edges(
        model, pair, edges=estimate, top=count, progress=progress, options=options.change(direction="noise")
    )
    ours = estimate["effect"].sel(edge=exact["edge"]).mean("example").values
    true = exact["effect"].mean("example").values
    varies = len(true) > 1 and ours.std() > 0 and true.std() > 0
    agreement = {
        "verified": len(true),
        "correlation": float(np.corrcoef(ours, true)[0, 1]) if varies else float("nan"),
        "sign_agreement": float((np.sign(ours) == np.sign(true)).mean()),
        "largest_deviation": float(np.abs(ours - true).max()),
    }
    return estimate.assign(exact=exact["effect"].reindex(edge=estimate["edge"])).assign_attrs(agreement)


def _estimated(
    model: HookedModel,
    wires: Wires,
    pair: Pair,
    way: Interpolation,
    options: Options,
    progress: bool | Progress,
) -> tuple[Tensor, Tensor, Tensor]:
    """Effects `[edge, batch]`, and the metric of the clean and of the corrupted run, `[batch]`."""
    device, dtype = placement(model)
    example_bytes = wires.row_size(len(way.points)) * pair.clean.seq_len * dtype.itemsize
    memory = options.memory(ESTIMATE_MB, device) - wires.fixed * dtype.itemsize
    parts = parts_of(pair, example_bytes, memory)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    with in_turn(model), Bars(progress) as tell:
        mean = wires.mean(parts, options)
        for part in parts:
            columns.append(_part(wires, part, mean, way, options))
            tell("examples estimated", sum(len(clean) for _, clean, _ in columns), len(pair))
    effect, clean, corrupted = (torch.cat(each, -1) for each in zip(*columns, strict=True))
    return effect, clean, corrupted


@torch.no_grad()
def _part(
    wires: Wires, part: Pair, mean: Any, way: Interpolation, options: Options
) -> tuple[Float[Tensor, "edge batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    ends, graph = wires.ends(part, mean, options), wires.graph
    scorer = Scorer.of(part, options, ends.clean)
    clean, corrupted = scorer(ends.clean), scorer(ends.corrupted)
    effect = ends.steps.new_zeros(len(graph.edges), len(part))
    many = [len(graph.incoming(reader)) for reader in graph.readers]
    first = {reader: end - n for reader, n, end in zip(graph.readers, many, accumulate(many), strict=True)}
    for path in way.paths(ends, graph):
        for readers, grads in wires.gradients(part, path, scorer):
            seen = path.seen(graph, readers[0])
            products = torch.einsum("ubsm,rbsm->rub", ends.steps[seen], grads) / -path.points
            for reader, product in zip(readers, products, strict=True):
                effect[first[reader] + seen.start : first[reader] + seen.stop] = product
    return effect, clean, corrupted
