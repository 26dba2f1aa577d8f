"""Path patching from senders to receivers, and the joint effect of two edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from mechinterp.core import (
    Circuit,
    ConfigError,
    Edge,
    Inputs,
    Metric,
    Pair,
    Site,
    SiteError,
    UnsupportedError,
    labelled,
    patching_result,
    suggest,
)
from mechinterp.interventions import (
    Ablation,
    Activations,
    Direction,
    ablated,
    check_ablation,
    check_unhooked,
    graph_of,
    on_model,
    quiet,
    record,
    run_edited,
    score_circuits,
    score_runs,
    take,
)
from mechinterp.models import Transformer
from mechinterp.patching.runs import Runs


def path_patch(
    model: Any,
    pair: Pair,
    senders: Sequence[str | Site],
    receivers: Sequence[str | Site],
    metric: str | Metric = "logit_diff",
    direction: Direction = "noise",
    ablation: Ablation = "resample",
    freeze_mlps: bool = False,
) -> xr.Dataset:
    """Effect of the direct paths from some senders to some receivers.

    First run: senders take the other value, all other heads keep the base run's output, and how that moves the
    receivers' inputs is recorded. Second run: the receivers' inputs move by it, and everything after them is computed
    anew. (With one receiver, or receivers that do not see each other, this is to put the recorded inputs in.)

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        senders: Sources: `L0.H1`, `L0.mlp`, `input`, `embed`, `pos`.
        receivers: Readers: `L1.H0.k`, `L1.mlp`, `logits`.
        metric: A name or a function.
        direction: `noise` patches the clean run, `denoise` the corrupted one.
        ablation: With `noise`, what the senders' other value is.
        freeze_mlps: Whether MLPs between sender and receiver keep the base run's output too. The paper lets them
            follow: a path through an MLP counts as direct.

    Returns:
        `effect`, `clean` and `corrupted` (`example`). Positive means that keeping the paths helps.

    Raises:
        SiteError: If a sender or receiver does not exist.
        UnsupportedError: If the model is no `Transformer`.

    Source: Wang et al. 2022, section 3.1.
    """
    check_ablation(ablation, direction)
    if not isinstance(model, Transformer):
        raise UnsupportedError(f"path patching needs a Transformer, not a {type(model).__name__}")
    check_unhooked(model)
    sources = _known(model, senders, "sender")
    readers = _known(model, receivers, "receiver")
    pair = on_model(pair, model)
    base = pair.clean if direction == "noise" else pair.corrupted
    with quiet(model):
        runs = Runs.of(model, pair, metric, direction, ablation)
        _, recorded = record(model, base.inputs, [_input_hook(model, reader) for reader in readers])
        frozen = _sender_edits(runs, sources, freeze_mlps)
        hooks = sorted({_input_hook(model, reader) for reader in readers})
        _, changed = _record_edited(model, base.inputs, hooks, frozen)
        edits: dict[str, Callable[[Tensor], Tensor]] = {}
        for hook in hooks:
            heads = [reader.head for reader in readers if _input_hook(model, reader) == hook]
            edits[hook] = _replace(recorded[hook], changed[hook], heads)
        output = take(run_edited(model, base.inputs, edits), runs.scorer.positions)
        effect = runs.effect(output)
    attrs = {
        "direction": direction,
        "ablation": ablation,
        "senders": ", ".join(map(str, sources)),
        "receivers": ", ".join(map(str, readers)),
    }
    made = labelled(effect, ["example"])
    return patching_result(made, runs.clean, runs.corrupted, metric=runs.scorer.name, method="path patching", **attrs)


def patch_edge_pairs(
    model: Any,
    pair: Pair,
    edges: Sequence[str | Edge],
    metric: str | Metric = "logit_diff",
    ablation: Ablation = "resample",
    inputs: Inputs = "merged",
    budget_mb: float = 256.0,
) -> xr.Dataset:
    """Exact joint effect of every two of some edges: both ablated in the clean run.

    Redundant edges show here and nowhere else: alone each costs nothing, together everything.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        edges: At least two; n of them take n(n+1)/2 runs.
        metric: A name or a function.
        ablation: What ablated edges carry.
        inputs: Embedding and positions as one source or two.
        budget_mb: Memory for activations.

    Returns:
        `effect` (`edge`, `other_edge`, `example`), symmetric, single effects on the diagonal; `clean`, `corrupted`.

    Raises:
        SiteError: If the model lacks one of the edges.
        ConfigError: If fewer than two edges are given, or one twice.
    """
    graph = graph_of(model, inputs)
    asked = [graph.check(edge) for edge in edges]
    if len(asked) < 2 or len(set(asked)) < len(asked):
        raise ConfigError(f"pairs of edges need at least two different edges, got {len(asked)}")
    whole = Circuit(graph.edges, inputs)
    rows, cols = torch.triu_indices(len(asked), len(asked))
    circuits = [whole - Circuit({asked[i], asked[j]}, inputs) for i, j in zip(rows, cols, strict=True)]
    values = score_circuits(model, pair, circuits, metric, ablation, budget_mb)
    clean, corrupted = score_runs(model, pair, metric)
    effect = clean.new_zeros(len(asked), len(asked), len(pair))
    effect[rows, cols] = effect[cols, rows] = clean - values
    names = [str(edge) for edge in asked]
    made = labelled(effect, ["edge", "other_edge", "example"], {"edge": names, "other_edge": names})
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    attrs = {"direction": "noise", "ablation": ablation, "inputs": inputs}
    return patching_result(made, clean, corrupted, metric=name, method="exact", **attrs)


def _known(model: Transformer, names: Sequence[str | Site], what: str) -> list[Site]:
    """Senders or receivers that the model has."""
    graph, split = model.config.graph(), model.config.graph("split")
    allowed = {*graph.sources, *split.sources} if what == "sender" else set(graph.readers)
    found = [Site.parse(name) for name in names]
    if not found:
        raise ConfigError(f"path patching needs at least one {what}")
    for site in found:
        if site not in allowed:
            raise SiteError(f"no {what} '{site}' in this model.{suggest(str(site), map(str, allowed))}")
    return found


def _input_hook(model: Transformer, reader: Site) -> str:
    """Where a reader's input can be read and replaced."""
    if reader.kind == "logits":
        return f"blocks.{model.config.n_layers - 1}.hook_resid_post"
    return f"blocks.{reader.layer}.hook_" + ("mlp_in" if reader.kind == "mlp" else f"{reader.kind}_input")


def _record_edited(
    model: Transformer, inputs: Tensor, hooks: Sequence[str], edits: dict[str, Callable[[Tensor], Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run with edits and keep some activations."""
    kept: dict[str, Tensor] = {}

    def watch(value: Tensor, hook: Any) -> Tensor:
        value = edits[hook.name](value) if hook.name in edits else value
        if hook.name in hooks:
            kept[hook.name] = value
        return value

    output = model.run_with_hooks(inputs, fwd_hooks=[(name, watch) for name in dict.fromkeys([*edits, *hooks])])
    return output, kept


def _sender_edits(runs: Runs, senders: list[Site], freeze_mlps: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every head at the base run's value, senders at the other run's."""
    model, this, other = runs.model, runs.this, runs.other
    edits: dict[str, Callable[[Tensor], Tensor]] = {}

    def fixed(value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda _: value

    for layer in range(model.config.n_layers):
        z = this.z[layer].clone()
        for site in senders:
            if site.layer == layer and site.head is not None:
                z[:, :, site.head] = ablated(other.z[layer], runs.ablation)[:, :, site.head]
        edits[f"blocks.{layer}.attn.hook_z"] = fixed(z)
        if Site("mlp", layer) in senders:
            bias = model.blocks[layer].mlp.b_out
            edits[f"blocks.{layer}.hook_mlp_out"] = fixed(ablated(_mlp(other, layer) - bias, runs.ablation) + bias)
        elif model.config.d_mlp and freeze_mlps:
            edits[f"blocks.{layer}.hook_mlp_out"] = fixed(_mlp(this, layer))
    whole = {"input": "blocks.0.hook_resid_pre", "embed": "hook_embed", "pos": "hook_pos_embed"}
    values = {"input": other.resid_pre[0], "embed": other.embed, "pos": other.pos}
    for site in senders:
        value = values.get(site.kind)
        if value is not None:
            edits[whole[site.kind]] = fixed(ablated(value, runs.ablation))
    return edits


def _mlp(run: Activations, layer: int) -> Tensor:
    return run.resid_pre[layer + 1] - run.resid_mid[layer]


def _replace(base: Tensor, changed: Tensor, heads: Sequence[int | None]) -> Callable[[Tensor], Tensor]:
    """A receiver's input moves by what the senders changed; other heads of the layer keep theirs."""

    def edit(value: Tensor) -> Tensor:
        if heads[0] is None:
            return value + changed - base
        moved = value.clone()
        for head in heads:
            moved[:, :, head] = value[:, :, head] + (changed - base)[:, :, head]
        return moved

    return edit
