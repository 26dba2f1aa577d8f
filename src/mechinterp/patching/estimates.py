"""Gradient estimates of node and edge effects: for models where exact effects cost too much, and to be examined.

All are first-order: `(clean value - other value) . gradient`, signed as the exact effects are.
"""

from __future__ import annotations

import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import (
    SEEN,
    Batch,
    ConfigError,
    Graph,
    HookedModel,
    Options,
    Pair,
    Site,
    UnsupportedError,
    example_names,
    join_names,
    labelled,
    patching_result,
    suggest,
    takes,
)
from mechinterp.interventions import (
    Scorer,
    ablated,
    activations,
    as_hooked,
    gradients,
    on_model,
    quiet,
    record,
    source_values,
    take,
)
from mechinterp.models import Transformer
from mechinterp.patching.foreign import foreign_graph, forked, recorded_sources
from mechinterp.patching.places import places
from mechinterp.patching.select import node_result, select_nodes

ESTIMATES = ("eap", "eap-ig", "clean-corrupted")


@takes("metric", "ablation", "inputs")
def estimate_edges(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    method: str = "eap-ig",
    steps: int = 10,
    options: Options,
) -> xr.Dataset:
    """Estimated effect of every edge, in the shape of `patch_edges` with `direction="noise"`.

    Args:
        model: A `Transformer`, or a `TransformerBridge` with per-head inputs (not a native one).
        pair: Clean and corrupted inputs.
        method: `eap` takes the gradient at the clean run; `eap-ig` averages it over `steps` points from the corrupted
            embedding (included) to the clean one (left out); `clean-corrupted` averages the two endpoints.
        steps: Points of `eap-ig`.
        options: See `Options`; the metric is differentiable.

    Returns:
        `effect` (`edge`, `example`), `clean` and `corrupted` (`example`).

    Raises:
        ConfigError: If the method is unknown or `steps` is below 1.
        UnsupportedError: If the model has no such edges (grouped-query attention, parallel MLPs, no per-head inputs).

    Source: Syed et al. 2023 (EAP); Hanna et al. 2024 (EAP-IG inputs, clean-corrupted). Differs: per-example sums, and
    positive means that keeping the edge helps.
    """
    if method not in ESTIMATES:
        raise ConfigError(f"no method '{method}'.{suggest(method, ESTIMATES)}")
    if steps < 1:
        raise ConfigError(f"steps={steps}: needs at least 1")
    pair, options = on_model(pair, model), options.for_model(model)
    if isinstance(model, Transformer):
        return _estimated(model, model.config.graph(options.inputs), pair, method, steps, options)
    graph = foreign_graph(model, options.inputs)
    if options.ablation == "zero":
        raise UnsupportedError("ablation='zero' needs a Transformer: a bridge's MLP hands over its bias as well")
    model = as_hooked(model)
    with forked(model):
        return _estimated(model, graph, pair, method, steps, options)


def _estimated(model: HookedModel, graph: Graph, pair: Pair, method: str, steps: int, options: Options) -> xr.Dataset:
    _, positions, _ = pair.clean.at_scored()
    with quiet(model):
        (mine, output, stop), (theirs, corrupted, start) = (
            _sources(model, batch.inputs, graph) for batch in (pair.clean, pair.corrupted)
        )
        difference = mine - ablated(theirs, options.ablation, batch_dim=1)
        scorer = Scorer.of(pair, options, take(output, positions))
        values = [scorer(take(run, positions)) for run in (output, corrupted)]
    points = {"eap": [1.0], "clean-corrupted": [0.0, 1.0]}.get(method) or [k / steps for k in range(steps)]
    grads = _reader_gradients(model, graph, pair, scorer, torch.stack([start + a * (stop - start) for a in points]))
    effect = _edge_products(graph, difference, grads)
    effects = labelled(effect, ["edge", "example"], {"edge": [str(edge) for edge in graph.edges]})
    attrs = {"direction": "noise", "steps": len(points), **options.attrs("metric", "ablation", "inputs")}
    attrs |= {SEEN: join_names(example_names(pair))}
    return patching_result(effects, values[0], values[1], method=method, **attrs)


def _sources(model: HookedModel, inputs: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """What each source writes, the output at every position, and the stream before the first layer."""
    if not isinstance(model, Transformer):
        return recorded_sources(model, inputs, graph)
    run = activations(model, inputs)
    return source_values(model, run, graph), model.read(run.final), run.resid_pre[0]


@takes("metric", "direction", "ablation")
def estimate_nodes(
    model: HookedModel | nn.Module,
    pair: Pair,
    *,
    site: str | Site = "z",
    at: str = "pos",
    options: Options,
) -> xr.Dataset:
    """Attribution patching: estimated effect of every node, in the shape of `patch_nodes`.

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        pair: Clean and corrupted inputs.
        site: A kind or an address, as for `patch_nodes`.
        at: `pos`, `role` or `all`.
        options: See `Options`; the metric is differentiable. The gradient is taken at the clean run (`noise`) or at the
            corrupted one (`denoise`).

    Raises:
        SiteError: If the model has no such site.

    Source: Nanda 2023, attribution patching; TransformerLens 4.3 takes the gradient at the corrupted run, which is
    `direction="denoise"` here.
    """
    model = as_hooked(model)
    pair = on_model(pair, model)
    where, nodes = places(pair.clean, at), select_nodes(model, site)
    names = nodes.hooks(model)
    options, noise = options.for_model(model), options.direction == "noise"
    base, other = (pair.clean, pair.corrupted) if noise else (pair.corrupted, pair.clean)
    _, positions, _ = pair.clean.at_scored()
    _, theirs = record(model, other.inputs, names)
    outputs = [take(record(model, batch.inputs, [])[0], positions) for batch in (pair.clean, pair.corrupted)]
    with torch.no_grad():
        scorer = Scorer.of(pair, options, outputs[0])
        values = [scorer(output) for output in outputs]
    mine, grads = gradients(model, base.inputs, names, lambda output: scorer(take(output, positions)))
    rows = []
    for name in names:
        value, reference, grad = (nodes.seq_second(part[name]) for part in (mine, theirs, grads))
        step = value - ablated(reference, options.ablation)
        product = (step if noise else -step) * grad
        if nodes.unit == "head":
            product = product.sum(-1)[:, :, nodes.heads.start : nodes.heads.stop]
        elif nodes.unit is None:
            product = product.sum(-1, keepdim=True)
        rows.append(torch.einsum("bsu,pbs->upb", product, where.masks.to(product.dtype)))
    result = node_result(torch.stack(rows), nodes, where)
    attrs = {"site": str(site), "at": at, **options.attrs("metric", "direction", "ablation")}
    return patching_result(result, values[0], values[1], method="attribution patching", **attrs)


@takes(metric="log_prob")
def pattern_gradient(model: HookedModel | nn.Module, batch: Batch, *, options: Options) -> xr.DataArray:
    """Each attention weight times the metric's gradient, (`layer`, `head`, `query`, `key`, `example`).

    Args:
        model: A `Transformer`, or any model with TransformerLens's hook points.
        batch: One batch; no corruption is needed.
        options: See `Options`; the metric is differentiable and needs no reference.

    Source: Hao et al. 2021 (the one-step form of attention attribution).
    """
    model = as_hooked(model)
    pair = on_model(Pair(batch, batch), model)
    nodes = select_nodes(model, "pattern")
    names = nodes.hooks(model)
    _, positions, _ = pair.clean.at_scored()
    scorer = Scorer.of(pair, options, take(record(model, pair.clean.inputs, [])[0], positions))
    mine, grads = gradients(model, pair.clean.inputs, names, lambda output: scorer(take(output, positions)))
    products = rearrange([mine[name] * grads[name] for name in names], "layer example ... -> layer ... example")
    return labelled(
        products, ["layer", "head", "query", "key", "example"], metric=scorer.name, method="pattern x gradient"
    )


def _reader_gradients(
    model: HookedModel, graph: Graph, pair: Pair, scorer: Scorer, points: Float[Tensor, "point batch seq d_model"]
) -> Float[Tensor, "reader batch seq d_model"]:
    """Mean gradient with respect to each reader's input, over the points on the embedding's path."""
    many = len(points)
    hooks = [graph.input_hook(reader) for reader in graph.readers]
    repeated = repeat(pair.clean.inputs, "batch ... -> (point batch) ...", point=many)
    positions = scorer.positions.repeat(many, 1)

    def score(output: Tensor) -> Tensor:
        return scorer(take(output, positions).unflatten(0, (many, -1)))

    edits = {Site("input").hook: lambda value: points.flatten(0, 1)}
    _, grads = gradients(model, repeated, list(dict.fromkeys(hooks)), score, edits)
    mean = {name: grad.unflatten(0, (many, -1)).mean(0) for name, grad in grads.items()}
    rows = zip(hooks, graph.readers, strict=True)
    return torch.stack([mean[hook] if reader.head is None else mean[hook][:, :, reader.index] for hook, reader in rows])


def _edge_products(graph: Graph, difference: Tensor, grads: Tensor) -> Float[Tensor, "edge batch"]:
    """Difference times gradient, summed over positions and features, for every edge."""
    products = torch.einsum("ubsm,rbsm->rub", difference, grads)
    rows = [products[i, : len(graph.incoming(reader))] for i, reader in enumerate(graph.readers)]
    return torch.cat(rows)
