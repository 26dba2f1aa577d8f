"""Path patching from senders to receivers, and the joint effect of two edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.core import (
    Circuit,
    ConfigError,
    Edge,
    HookedModel,
    Options,
    Pair,
    Site,
    SiteError,
    labelled,
    patching_result,
    suggest,
    takes,
)
from mechinterp.interventions import (
    Activations,
    ablated,
    as_transformer,
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


@takes("metric", "direction", "ablation")
def path_patch(
    model: HookedModel | nn.Module,
    pair: Pair,
    senders: Sequence[str | Site],
    receivers: Sequence[str | Site],
    *,
    freeze_mlps: bool = False,
    options: Options,
) -> xr.Dataset:
    """Effect of the direct paths from some senders to some receivers.

    First run: senders take the other value, all other heads keep the base run's output, and how that moves the
    receivers' inputs is recorded. Second run: the receivers' inputs move by it, and everything after them is computed
    again. (With one receiver, or receivers that do not see each other, this equals inserting the recorded inputs.)

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        senders: Sources: `L0.H1`, `L0.mlp`, `input`, `embed`, `pos`.
        receivers: Readers: `L1.H0.k`, `L1.mlp`, `logits`.
        freeze_mlps: Whether MLPs between sender and receiver keep the base run's output too. The paper lets them
            follow: a path through an MLP counts as direct.
        options: See `Options`.

    Returns:
        `effect`, `clean` and `corrupted` (`example`). Positive means that keeping the paths helps.

    Raises:
        SiteError: If a sender or receiver does not exist.
        UnsupportedError: If the model is no `Transformer`.

    Source: Wang et al. 2022, section 3.1.
    """
    model = as_transformer(model, "path patching needs")
    options = options.for_model(model)
    sources = _known(model, senders, "sender")
    readers = _known(model, receivers, "receiver")
    pair = on_model(pair, model)
    base = pair.clean if options.direction == "noise" else pair.corrupted
    with quiet(model):
        runs = Runs.of(model, pair, options)
        heads: dict[str, list[int | None]] = {}
        for reader in readers:
            place = None if reader.head is None else reader.index
            heads.setdefault(model.config.graph().input_hook(reader), []).append(place)
        _, before = record(model, base.inputs, list(heads))
        _, after = record(model, base.inputs, list(heads), edits=_sender_edits(runs, sources, freeze_mlps))
        edits = {hook: _replace(before[hook], after[hook], each) for hook, each in heads.items()}
        effect = runs.effect(take(run_edited(model, base.inputs, edits), runs.scorer.positions))
    attrs = {
        **options.attrs("metric", "direction", "ablation"),
        "senders": ", ".join(map(str, sources)),
        "receivers": ", ".join(map(str, readers)),
    }
    effects = labelled(effect, ["example"])
    return patching_result(effects, runs.clean, runs.corrupted, method="path patching", **attrs)


@takes("metric", "ablation", "inputs", "budget_mb")
def patch_edge_pairs(
    model: HookedModel | nn.Module,
    pair: Pair,
    edges: Sequence[str | Edge],
    *,
    options: Options,
) -> xr.Dataset:
    """Exact joint effect of every two of some edges: both ablated in the clean run.

    Redundant edges show here and nowhere else: alone each costs nothing, together everything.

    Args:
        model: A `Transformer`.
        pair: Clean and corrupted inputs.
        edges: At least two; n of them take n(n+1)/2 runs.
        options: See `Options`.

    Returns:
        `effect` (`edge`, `other_edge`, `example`), symmetric, single effects on the diagonal; `clean`, `corrupted`.

    Raises:
        SiteError: If the model lacks one of the edges.
        ConfigError: If fewer than two edges are given, or one twice.
    """
    options = options.for_model(model)
    graph, inputs = graph_of(model, options.inputs), options.inputs
    chosen = [graph.check(edge) for edge in edges]
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ConfigError(f"pairs of edges need at least two different edges, got {len(chosen)}")
    whole = Circuit(graph.edges, inputs)
    rows, cols = torch.triu_indices(len(chosen), len(chosen))
    circuits = [whole - Circuit({chosen[i], chosen[j]}, inputs) for i, j in zip(rows, cols, strict=True)]
    values = score_circuits(model, pair, circuits, options=options)
    clean, corrupted = score_runs(model, pair, options=options)
    effect = clean.new_zeros(len(chosen), len(chosen), len(pair))
    effect[rows, cols] = effect[cols, rows] = clean - values
    names = [str(edge) for edge in chosen]
    effects = labelled(effect, ["edge", "other_edge", "example"], {"edge": names, "other_edge": names})
    attrs = {"direction": "noise", **options.attrs("metric", "ablation", "inputs")}
    return patching_result(effects, clean, corrupted, method="exact", **attrs)


def _known(model: Transformer, names: Sequence[str | Site], what: str) -> list[Site]:
    """Senders or receivers that the model has."""
    graph, split = model.config.graph(), model.config.graph("split")
    allowed = {*graph.sources, *split.sources} if what == "sender" else set(graph.readers)
    sites = [Site.parse(name) for name in names]
    if not sites:
        raise ConfigError(f"path patching needs at least one {what}")
    for site in sites:
        if site not in allowed:
            raise SiteError(f"no {what} '{site}' in this model.{suggest(str(site), map(str, allowed))}")
    return sites


def _sender_edits(runs: Runs, senders: list[Site], freeze_mlps: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every head at the base run's value, senders at the other run's."""
    model, this, other = runs.model, runs.base.acts, runs.other
    edits: dict[str, Callable[[Tensor], Tensor]] = {}

    def fix(site: Site, value: Tensor) -> None:
        edits[site.hook] = lambda _: value

    for layer in range(model.config.n_layers):
        z = this.z[layer].clone()
        for site in senders:
            if site.layer == layer and site.head is not None:
                z[:, :, site.head] = ablated(other.z[layer], runs.options.ablation)[:, :, site.head]
        fix(Site("z", layer), z)
        if Site("mlp", layer) in senders:
            bias = model.blocks[layer].mlp.bias
            bias = 0.0 if bias is None else bias
            fix(Site("mlp", layer), ablated(_mlp(other, layer) - bias, runs.options.ablation) + bias)
        elif model.config.d_mlp and freeze_mlps:
            fix(Site("mlp", layer), _mlp(this, layer))
    values = {"input": other.resid_pre[0], "embed": other.embed, "pos": other.pos}
    for site in senders:
        value = values.get(site.kind)
        if value is not None:
            fix(site, ablated(value, runs.options.ablation))
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
