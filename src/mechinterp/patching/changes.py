"""What patching a node does to the residual stream: from there on the model runs again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechinterp.interventions import LayerPart, Start
from mechinterp.models import Positions
from mechinterp.patching.runs import Runs

Moved = Callable[[range, Positions], Float[Tensor, "*place unit batch row d_model"]]
"""(units, rows) -> what patching a unit at a position adds to the stream there; `place` if rows have such an axis."""


@dataclass(frozen=True, eq=False)
class LocalChange:
    """A layer's nodes of one kind, where a patch at a position adds to the stream at that position only.

    Args:
        units: Nodes at one position: heads, neurons, or 1.
        layer: Where the change enters the stream.
        stage: Before `layer`, or after its attention.
        moved: What it adds.
    """

    units: int
    layer: int
    stage: LayerPart
    moved: Moved
    local = True

    def start(self, runs: Runs, masks: Bool[Tensor, "place batch seq"], units: range, first: int) -> Start:
        """Where the patched runs start again, places and units in one axis.

        Args:
            runs: The runs to patch between.
            masks: The positions of each place.
            units: Which units.
            first: No place has a position before it.
        """
        base, present = runs.base, masks.any(-1)
        if base.mixes_after(self.layer, self.stage) and bool((masks.sum(-1) <= 1).all()):
            # Where an example has no such place, nothing is added at the first position.
            rows = torch.where(present, masks.to(torch.int8).argmax(-1), first)[..., None]
            at = base.acts.where.pick(rows)
            moved = self.moved(units, at) * present[:, None, :, None, None]
            before = at.take(base.stream(self.layer, self.stage))[:, None]
            at = base.acts.where.pick(rows.repeat_interleave(len(units), 0))
        else:
            at = base.needed(self.layer, self.stage, first)
            moved = at.take(masks[..., None])[:, None] * self.moved(units, at)
            before = at.take(base.stream(self.layer, self.stage))
        return Start(self.layer, self.stage, (before + moved).flatten(0, 1), at)


@dataclass(frozen=True, eq=False)
class ForkChange:
    """A layer's keys or values, which reach the stream at later positions: attention is computed again.

    Args:
        kind: `k` or `v`.
        layer: The layer.
        heads: Which heads.
        moved: From this run's keys or values to what replaces them.
    """

    kind: str
    layer: int
    heads: range
    moved: Float[Tensor, "batch seq head d_head"]
    stage: LayerPart = "mid"
    local = False

    @property
    def units(self) -> int:
        """Nodes at one position."""
        return len(self.heads)

    def start(self, runs: Runs, masks: Bool[Tensor, "place batch seq"], units: range, first: int) -> Start:
        """As for a `LocalChange`; all heads of the layer are patched at once, and each one's output taken apart."""
        acts, base, attn = runs.base.acts, runs.base, runs.model.blocks[self.layer].attn
        at = base.needed(self.layer, self.stage, first)
        q, z = at.take(acts.q[self.layer], 2), at.take(acts.z[self.layer], 2)
        forks = {"k": acts.k[self.layer][None], "v": acts.v[self.layer][None]}
        forks[self.kind] = forks[self.kind] + masks[..., None, None] * self.moved
        patched = attn.attend(q[None], forks["k"], forks["v"], at, acts.where)
        forks = slice(self.heads[units.start], self.heads[units.stop - 1] + 1)
        written = attn.write_forks(self.kind, patched - z, forks)
        values = at.take(base.stream(self.layer, self.stage)) + written.movedim(-2, 1)
        return Start(self.layer, self.stage, values.flatten(0, 1), at)


Change = LocalChange | ForkChange


def node_change(runs: Runs, kind: str, layer: int, heads: range) -> Change:
    """The change that patching a layer's nodes of one kind makes.

    Args:
        runs: The runs to patch between.
        kind: A kind of `select`.
        layer: The layer; 0 for a site of the whole model.
        heads: Which heads, for kinds that have them.
    """
    this, other = runs.base.acts, runs.other
    if kind in ("k", "v"):
        moved = runs.step(getattr(other, kind)[layer], getattr(this, kind)[layer])
        return ForkChange(kind, layer, heads, moved)
    if kind in ("q", "z", "pattern", "result"):
        return _head_change(runs, kind, layer, heads)
    if kind == "mlp_post":
        return _neuron_change(runs, layer)
    if kind in ("embed", "pos"):
        return _rows(layer, "pre", runs.step(getattr(other, kind), getattr(this, kind)))
    if kind in ("resid_pre", "input"):
        return _rows(layer, "pre", runs.step(other.resid_pre[layer], this.resid_pre[layer]))
    if kind == "resid_mid":
        return _rows(layer, "mid", runs.step(other.resid_mid[layer], this.resid_mid[layer]))
    if kind == "resid_post":
        return _rows(layer + 1, "pre", runs.step(other.resid_pre[layer + 1], this.resid_pre[layer + 1]))
    if kind == "attn":
        written = [run.resid_mid[layer] - run.resid_pre[layer] for run in (other, this)]
        return _rows(layer, "mid", runs.step(written[0], written[1]))
    written = [run.resid_pre[layer + 1] - run.resid_mid[layer] for run in (other, this)]
    return _rows(layer + 1, "pre", runs.step(written[0], written[1]))


def _rows(layer: int, stage: LayerPart, difference: Float[Tensor, "*unit batch seq d_model"]) -> LocalChange:
    """A node that adds a known difference at each position."""
    difference = difference.view(-1, *difference.shape[-3:])

    def moved(units: range, at: Positions) -> Tensor:
        return at.take(difference[units.start : units.stop, None]).movedim(0, 1)

    return LocalChange(len(difference), layer, stage, moved)


def _head_change(runs: Runs, kind: str, layer: int, heads: range) -> LocalChange:
    """A head's query and a query's row of the pattern change that query's own output alone."""
    attn, picked = runs.model.blocks[layer].attn, slice(heads.start, heads.stop)
    this, other, where = runs.base.acts, runs.other, runs.base.acts.where
    if kind == "result":
        written = [attn.write_heads(run.z[layer], picked) for run in (other, this)]
        return _rows(layer, "mid", runs.step(written[0], written[1]).movedim(-2, 0).contiguous())
    if kind == "z":
        moved = runs.step(other.z[layer], this.z[layer])
    elif kind == "q":
        q = this.q[layer] + runs.step(other.q[layer], this.q[layer])
        moved = attn.attend(q, this.k[layer], this.v[layer], where, where) - this.z[layer]
    else:
        pattern = attn.pattern(other.q[layer], other.k[layer], where, where).transpose(1, 2)
        pattern = runs.step(pattern, torch.zeros_like(pattern)).transpose(1, 2)
        moved = attn.mix(pattern, this.v[layer]) - this.z[layer]
    return _rows(layer, "mid", attn.write_heads(moved, picked).movedim(-2, 0).contiguous())


def _neuron_change(runs: Runs, layer: int) -> LocalChange:
    """MLP neurons one by one."""
    mlp = runs.model.blocks[layer].mlp
    difference = runs.step(runs.other.post[layer], runs.base.acts.post[layer])

    def moved(units: range, at: Positions) -> Tensor:
        few = slice(units.start, units.stop)
        return mlp.write_each(at.take(difference[..., few]), few)

    return LocalChange(difference.shape[-1], layer + 1, "pre", moved)
