"""What patching a node does to the residual stream: from there on the model is run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.interventions import take
from mechinterp.patching.runs import Runs

Step = Callable[[Bool[Tensor, "place batch seq"], range, int], Float[Tensor, "place unit batch tail d_model"]]
Row = Callable[[Int[Tensor, "place batch"], range], Float[Tensor, "place unit batch d_model"]]


@dataclass(frozen=True, eq=False)
class Change:
    """A layer's nodes of one kind.

    Args:
        runs: The runs to patch between.
        units: Nodes at one position: heads, neurons, or 1.
        layer: Where the change enters the stream: before `layer`, or after its attention.
        stage: `pre` or `mid`.
        step: (places, units, first position) -> what is added to the stream, at positions from the first on, or at
            the scored positions if `kept`.
        local: Whether a patch at a position adds to the stream at that position only.
        row: (positions, units) -> what is added at one position of each example, for a local change that has it.
    """

    runs: Runs
    units: int
    layer: int
    stage: Literal["pre", "mid"]
    step: Step
    local: bool = True
    row: Row | None = None

    @property
    def kept(self) -> bool:
        """Whether no attention follows, so that only scored positions matter."""
        last = self.runs.model.config.n_layers - 1
        return self.layer == (last if self.stage == "mid" else last + 1)

    def run(
        self, masks: Bool[Tensor, "place batch seq"], unit: range, start: int
    ) -> Float[Tensor, "place unit batch kept out"]:
        """Outputs of the patched runs."""
        runs = self.runs
        base = (runs.this.resid_mid if self.stage == "mid" else runs.this.resid_pre)[self.layer]
        if self.row is not None and not self.kept and bool((masks.sum(-1) <= 1).all()):
            return self._run_rows(self.row, base, masks, unit, start)
        base = take(base, runs.resumer.positions) if self.kept else base[:, start:]
        moved = base + self.step(masks, unit, start)
        resid = moved.flatten(0, 1)
        if not self.kept:
            output = (runs.resumer.from_mid if self.stage == "mid" else runs.resumer.from_pre)(self.layer, resid, start)
        elif self.stage == "mid":
            output = runs.resumer.from_mid_kept(resid)
        else:
            output = runs.resumer.from_final_kept(resid)
        return output.unflatten(0, moved.shape[:2])

    def _run_rows(self, row: Row, base: Tensor, masks: Tensor, unit: range, start: int) -> Tensor:
        """The same for masks of at most one position in each example."""
        resumer = self.runs.resumer
        # Where there is none, nothing is added at the first position.
        where = torch.where(masks.any(-1), masks.to(torch.int8).argmax(-1), start)
        moved = row(where, unit) * masks.any(-1)[:, None, :, None]
        moved = moved + take(base, where.T).transpose(0, 1)[:, None]
        many = where[:, None].expand(moved.shape[:3]).flatten(0, 1)
        output = (resumer.from_mid_row if self.stage == "mid" else resumer.from_pre_row)(
            self.layer, moved.flatten(0, 1), many, start
        )
        return output.unflatten(0, moved.shape[:2])


def node_change(runs: Runs, kind: str, layer: int, heads: range) -> Change:
    """The change that patching a layer's nodes of one kind makes.

    Args:
        runs: The runs to patch between.
        kind: A kind of `select`.
        layer: The layer; 0 for a site of the whole model.
        heads: Which heads, for kinds that have them.
    """
    this, other = runs.this, runs.other
    if kind in ("q", "k", "v"):
        return _fork_change(runs, kind, layer, heads)
    if kind in ("z", "result", "pattern"):
        return _head_change(runs, kind, layer, heads)
    if kind == "mlp_post":
        return _neuron_change(runs, layer)
    if kind in ("embed", "pos"):
        return _rows(runs, layer, "pre", runs.step(getattr(other, kind), getattr(this, kind))[None])
    if kind in ("resid_pre", "input"):
        return _rows(runs, layer, "pre", runs.step(other.resid_pre[layer], this.resid_pre[layer])[None])
    if kind == "resid_mid":
        return _rows(runs, layer, "mid", runs.step(other.resid_mid[layer], this.resid_mid[layer])[None])
    if kind == "resid_post":
        return _rows(runs, layer + 1, "pre", runs.step(other.resid_pre[layer + 1], this.resid_pre[layer + 1])[None])
    if kind == "attn":
        written = [run.resid_mid[layer] - run.resid_pre[layer] for run in (other, this)]
        return _rows(runs, layer, "mid", runs.step(written[0], written[1])[None])
    written = [run.resid_pre[layer + 1] - run.resid_mid[layer] for run in (other, this)]
    return _rows(runs, layer + 1, "pre", runs.step(written[0], written[1])[None])


def _rows(
    runs: Runs, layer: int, stage: Literal["pre", "mid"], difference: Float[Tensor, "unit batch seq d_model"]
) -> Change:
    """A node whose patch at some positions adds there what it would add everywhere."""

    def step(masks: Tensor, unit: range, start: int) -> Tensor:
        mask, moved = masks[..., None], difference[unit.start : unit.stop]
        if change.kept:
            mask, moved = take(mask, runs.resumer.positions), take(moved, runs.resumer.positions)
        else:
            mask, moved = mask[:, :, start:], moved[:, :, start:]
        return mask[:, None] * moved

    def row(where: Tensor, unit: range) -> Tensor:
        return take(difference[unit.start : unit.stop], where.T).movedim(2, 0)

    change = Change(runs, len(difference), layer, stage, step, row=row)
    return change


def _head_change(runs: Runs, kind: str, layer: int, heads: range) -> Change:
    weight = runs.model.blocks[layer].attn.W_O[heads.start : heads.stop]
    this, other = (run.z[layer][:, :, heads.start : heads.stop] for run in (runs.this, runs.other))
    if kind == "result":
        written = [torch.einsum("bshd,hdm->bshm", z, weight) for z in (other, this)]
        return _rows(runs, layer, "mid", runs.step(written[0], written[1]).movedim(2, 0))
    moved = runs.step(other, this) if kind == "z" else _repatterned(runs, layer)[:, :, heads.start : heads.stop] - this
    return _rows(runs, layer, "mid", torch.einsum("bshd,hdm->hbsm", moved, weight))


def _repatterned(runs: Runs, layer: int) -> Float[Tensor, "batch seq head d_head"]:
    """Z with the other run's pattern and this run's values: a query's row of the pattern moves only its own z."""
    attn: Any = runs.model.blocks[layer].attn
    q, k = runs.other.q[layer], runs.other.k[layer]
    if runs.model.config.positions == "rotary":
        q, k = attn.rotate(q), attn.rotate(k)
    pattern = attn.pattern(q.transpose(1, 2), k.transpose(1, 2))
    pattern = runs.step(pattern.transpose(1, 2), torch.zeros_like(pattern.transpose(1, 2))).transpose(1, 2)
    return (pattern @ runs.this.v[layer].transpose(1, 2)).transpose(1, 2)


def _fork_change(runs: Runs, kind: str, layer: int, heads: range) -> Change:
    """Queries, keys or values: attention is computed anew, for all heads of a layer at once."""
    this = {name: getattr(runs.this, name)[layer] for name in "qkv"}
    moved = runs.step(getattr(runs.other, kind)[layer], this[kind])
    weight = runs.model.blocks[layer].attn.W_O
    resumer = runs.resumer

    def step(masks: Tensor, unit: range, start: int) -> Tensor:
        parts = {name: value[None] for name, value in this.items()}
        parts[kind] = parts[kind] + masks[..., None, None] * moved
        picked = slice(heads[unit.start], heads[unit.stop - 1] + 1)
        if change.kept:
            parts["q"] = take(parts["q"].flatten(-2), resumer.positions).unflatten(-1, moved.shape[-2:])
            before = take(runs.this.z[layer].flatten(-2), resumer.positions).unflatten(-1, moved.shape[-2:])
        else:
            parts["q"], before = parts["q"][:, :, start:], runs.this.z[layer][:, start:]
        z = resumer.attend(layer, parts["q"], parts["k"], parts["v"], start, change.kept)
        return torch.einsum("pbshd,hdm->phbsm", (z - before)[..., picked, :], weight[picked])

    change = Change(runs, len(heads), layer, "mid", step, local=kind == "q")
    return change


def _neuron_change(runs: Runs, layer: int) -> Change:
    """MLP neurons one by one."""
    weight = runs.model.blocks[layer].mlp.W_out
    difference = runs.step(runs.other.post[layer], runs.this.post[layer])

    def step(masks: Tensor, unit: range, start: int) -> Tensor:
        mask, moved = masks[..., None], difference[..., unit.start : unit.stop]
        if change.kept:
            mask, moved = take(mask, runs.resumer.positions), take(moved, runs.resumer.positions)
        else:
            mask, moved = mask[:, :, start:], moved[:, start:]
        return torch.einsum("pbsn,nm->pnbsm", mask * moved, weight[unit.start : unit.stop])

    change = Change(runs, difference.shape[-1], layer + 1, "pre", step)
    return change
