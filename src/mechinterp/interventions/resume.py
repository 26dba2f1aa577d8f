"""Start again from the middle: many runs that differ from one base run only from some layer and position on.

Why the shortcuts are exact:

* *Layers.* What comes before the patched layer is the base run's, so it is not computed again.
* *Causality.* In a causal model a change at position p reaches no position before p. Runs are computed for positions
  from the first change on; the keys and values of earlier positions are the base run's.
* *Scored positions.* The metric reads the output at scored positions only, and in the last layer a query's output
  depends on no other query. So the last layer's queries, its MLP and the unembedding run at those positions alone.
* *Rows.* A stream that differs at some positions differs there alone until an attention layer reads it: an MLP, a norm,
  q, k and v act on each position by itself (see `models.block`). So they are computed for those rows, and put among
  the base run's.

Outputs at scored positions before the first change are computed from the base run's stream: they are its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.interventions.activations import Activations
from mechinterp.models import Positions, Transformer

ROWS = 1024
"""Rows that an MLP takes at a time: their neurons stay in the processor's cache."""

LayerPart = Literal["pre", "mid"]
"""Where in a layer: before it, or after its attention."""


@dataclass(frozen=True, eq=False)
class BaseRun:
    """The run that all others share their beginning with.

    Args:
        model: A `Transformer` without hooks.
        acts: What it computed.
        scored: Scored positions of each example, `[batch, scored]`; only there is an output computed.
        output: Its output there.
    """

    model: Transformer
    acts: Activations
    scored: Positions
    output: Float[Tensor, "batch scored out"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Transformer, acts: Activations, scored: Int[Tensor, "batch scored"]) -> BaseRun:
        """A base run, with its output computed."""
        where = acts.where.pick(scored)
        return cls(model, acts, where, model.read(where.take(acts.final)))

    def stream(self, layer: int, stage: LayerPart) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream at a stage; before layer `n_layers` stands the final norm."""
        return (self.acts.resid_pre if stage == "pre" else self.acts.resid_mid)[layer]

    def mixes_after(self, layer: int, stage: LayerPart) -> bool:
        """Whether some attention follows, so that a position there can reach another."""
        return layer + (stage == "mid") < self.model.config.n_layers

    def needed(self, layer: int, stage: LayerPart, first: int = 0) -> Positions:
        """The positions at which a stream that differs from `first` on must be known."""
        return self.acts.where.since(first) if self.mixes_after(layer, stage) else self.scored


@dataclass(frozen=True, eq=False)
class Start:
    """Where runs start again: a residual stream that is the base run's but for some rows.

    Args:
        layer: Layer; `n_layers` is the final norm.
        stage: Before the layer (`pre`), or after its attention (`mid`).
        values: The stream at some positions.
        at: These positions. All others hold the base run's stream, or reach no scored output.
    """

    layer: int
    stage: LayerPart
    values: Float[Tensor, "patch batch row d_model"]
    at: Positions


@torch.no_grad()
def resume(base: BaseRun, start: Start) -> Float[Tensor, "patch batch scored out"]:
    """Outputs of the runs at the scored positions."""
    layer, at, values = start.layer, start.at, start.values
    if start.stage == "mid":
        values = _finish(base, layer, at.take(base.acts.resid_pre[layer]), values)
        layer += 1
    for later in range(layer, base.model.config.n_layers):
        queries, pre, mid = _attended(base, later, at, values)
        at, values = queries, _finish(base, later, pre, mid)
    return base.model.read(at.splice(values, base.acts.final, base.scored))


def _attended(base: BaseRun, layer: int, at: Positions, values: Tensor) -> tuple[Positions, Tensor, Tensor]:
    """The positions that are needed after a layer's attention, and the stream there before and after it."""
    acts, attn, whole = base.acts, base.model.blocks[layer].attn, base.acts.where
    first = at.first if at.first is not None else int(at.index.min())
    queries = base.needed(layer, "mid", first if base.model.config.causal else 0)
    x = base.model.blocks[layer].ln1(values)
    pre = at.splice(values, acts.resid_pre[layer], queries)
    if at.first is not None and queries.first is None:
        # Few of the rows are queries.
        (q,) = attn.project("q", base.model.blocks[layer].ln1(pre), queries)
        k, v = attn.project("kv", x, at)
    else:
        q, k, v = attn.project("qkv", x, at)
        (q,) = _spliced(at, [q], [acts.q[layer]], queries)
    k, v = _spliced(at, [k, v], [acts.k[layer], acts.v[layer]], whole)
    # In place on what was just computed: a large tensor less to fill.
    return queries, pre, attn.write(attn.attend(q, k, v, queries, whole)).add_(pre)


def _spliced(at: Positions, values: list[Tensor], base: list[Tensor], wanted: Positions) -> list[Tensor]:
    """`Positions.splice` for values with heads."""
    flat, around = ([each.flatten(-2) for each in tensors] for tensors in (values, base))
    if at.first is None:
        # In one tensor: several large ones that come and go have the allocator return their memory each time.
        spliced = at.splice(torch.stack(flat), torch.stack(around)[:, None], wanted)
    else:
        spliced = [at.splice(*each, wanted) for each in zip(flat, around, strict=True)]
    return [each.unflatten(-1, values[0].shape[-2:]) for each in spliced]


def _finish(base: BaseRun, layer: int, pre: Tensor, mid: Tensor) -> Tensor:
    """The stream after a layer's MLP, some rows at a time."""
    block = base.model.blocks[layer]
    if not block.has_mlp:
        return mid
    read = block.mlp_reads(pre, mid)
    mids = mid.flatten(0, -2).split(ROWS)
    reads = mids if read is mid else read.expand_as(mid).flatten(0, -2).split(ROWS)
    return torch.cat([block.add_mlp(*parts) for parts in zip(mids, reads, strict=True)]).view(mid.shape)
