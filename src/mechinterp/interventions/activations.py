"""One run of a `Transformer`, with everything that later runs can start again from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mechinterp.core import Graph, ShapeError, Site
from mechinterp.interventions.hooks import quiet
from mechinterp.interventions.reference import ablated
from mechinterp.models import Positions, Transformer


@dataclass(frozen=True, eq=False)
class Activations:
    """What one run computed; tuples have an entry per layer.

    Args:
        resid_pre: Residual stream before each layer, and at last before the final norm, `[batch, seq, d_model]`.
        resid_mid: Between attention and MLP, `[batch, seq, d_model]`.
        q: Queries before rotary positions, `[batch, seq, head, d_head]`; `k`, `v` and `z` likewise.
        post: MLP neurons, `[batch, seq, d_mlp]`; empty without MLPs.
        embed: Embedding alone, `[batch, seq, d_model]`.
        pos: Learned positions, `[batch, seq, d_model]`, or None.
        where: The positions of the sequence.
    """

    resid_pre: tuple[Tensor, ...]
    resid_mid: tuple[Tensor, ...]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    post: tuple[Tensor, ...]
    embed: Tensor
    pos: Tensor | None
    where: Positions

    @property
    def final(self) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream before the final norm."""
        return self.resid_pre[-1]

    def map(self, change: Callable[..., Tensor], *others: Activations) -> Activations:
        """A function of every tensor, of this run and of others in the same place; positions stay."""

        def one(values: Sequence[Any]) -> Any:
            if isinstance(values[0], tuple):
                return tuple(change(*each) for each in zip(*values, strict=True))
            return change(*values) if isinstance(values[0], Tensor) else values[0]

        parts = {item.name: [getattr(run, item.name) for run in (self, *others)] for item in fields(self)}
        return Activations(**{name: one(values) for name, values in parts.items()})


def activations(model: Transformer, inputs: Tensor) -> Activations:
    """Run a model once and keep all of it.

    Args:
        model: A `Transformer` without hooks.
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
    """
    layers, mlp = range(model.config.n_layers), model.config.d_mlp > 0
    inside = {kind: [Site(kind, layer) for layer in layers] for kind in ("q", "k", "v", "z")}
    inside |= {kind: [Site(kind, layer) for layer in layers] for kind in ("resid_mid", "post") if mlp}
    sites = [Site("embed"), *([Site("pos")] if model.config.position_source else []), *chain(*inside.values())]
    with quiet(model), _watched(model, sites) as at:
        resid, where = model.embedded(inputs)
        stream = [resid]
        for block in model.blocks:
            stream.append(block(stream[-1], where))
    values = {kind: tuple(at[site] for site in each) for kind, each in inside.items()}
    if not mlp:
        values |= {"resid_mid": tuple(stream[1:]), "post": ()}
    return Activations(**values, resid_pre=tuple(stream), embed=at[Site("embed")], pos=at.get(Site("pos")), where=where)


def mean_activations(model: Transformer, parts: Sequence[Tensor]) -> Activations:
    """Means over the examples of all parts, `[1, seq, ...]`, one part in memory at a time."""
    count, total = sum(map(len, parts)), None
    for inputs in parts:
        share = activations(model, inputs).map(lambda value: value.sum(0, keepdim=True) / count)
        total = share if total is None else total.map(torch.add, share)
    if total is None:
        raise ShapeError("no examples to average")
    return total


@contextmanager
def _watched(model: Transformer, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """What passes through some hook points, by site; `record` checks more and takes longer."""
    values: dict[Site, Tensor] = {}

    def watch(site: Site) -> RemovableHandle:
        return model.hook_dict[site.hook].register_forward_hook(lambda *call: values.update({site: call[-1]}))

    handles = [watch(site) for site in sites]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def source_values(model: Transformer, acts: Activations, graph: Graph) -> Float[Tensor, "source batch seq d_model"]:
    """What each source of the graph writes to the residual stream, without biases, which belong to no source."""
    return _stacked(graph, acts, _written(model, graph, [acts]))


def largest_source(model: Transformer, acts: Activations, graph: Graph) -> Tensor:
    """The largest number in `source_values`."""
    return torch.stack([values.abs().amax() for values in _written(model, graph, [acts])]).amax()


def source_steps(
    model: Transformer, this: Activations, other: Activations, ablation: str, graph: Graph
) -> Float[Tensor, "source batch seq d_model"]:
    """From what each source writes in a run to what replaces it.

    Sources write linear maps of z and of neurons, so these are subtracted and averaged, and not what is written.

    Args:
        model: A `Transformer`.
        this: The run.
        other: The run that replacements come from.
        ablation: What is made of the other run's values, as for `ablated`.
        graph: Whose sources.
    """
    steps = _written(model, graph, [this, other], lambda mine, theirs: ablated(theirs, ablation) - mine)
    return _stacked(graph, this, steps)


def _stacked(graph: Graph, acts: Activations, parts: Iterator[Tensor]) -> Float[Tensor, "source batch seq d_model"]:
    """In one tensor from the start: it is the largest of an analysis."""
    stream, first = acts.resid_pre[0], 0
    values = stream.new_empty(len(graph.sources), *stream.shape)
    for part in parts:
        values[first : first + len(part)] = part
        first += len(part)
    return values


def _written(
    model: Transformer, graph: Graph, runs: Sequence[Activations], combine: Callable[..., Tensor] = lambda value: value
) -> Iterator[Float[Tensor, "few batch seq d_model"]]:
    """What sources write, some at a time in the graph's order, of values that are combined from those of the runs."""
    if graph.inputs == "merged":
        yield combine(*(run.resid_pre[0] for run in runs))[None]
    else:
        for name in ("embed", "pos")[: len(graph.roots)]:
            yield combine(*(getattr(run, name) for run in runs))[None]
    for layer, block in enumerate(model.blocks):
        yield block.attn.write_heads(combine(*(run.z[layer] for run in runs))).movedim(-2, 0)
        if block.has_mlp:
            yield block.mlp.write(combine(*(run.post[layer] for run in runs)))[None]
