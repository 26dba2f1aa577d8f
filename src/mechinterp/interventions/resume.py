"""Start again from the middle: many runs that differ from one base run only from some layer and position on.

Why the shortcuts are exact:

* *Layers.* What comes before the patched layer is the base run's, so it is not computed again.
* *Causality.* In a causal model a change at position p reaches no position before p. Runs are computed for positions
  from `start` on; the keys and values of earlier positions are the base run's.
* *Scored positions.* The metric reads the output at scored positions only, and in the last layer a query's output
  depends on no other query. So the last layer's queries, its MLP and the unembedding run at those positions alone.
* *Rows.* A stream that differs at one position differs there alone until an attention layer reads it: an MLP, a norm,
  q, k and v act on each position by itself. So they are computed for that row, and put among the base run's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mechinterp.interventions.activations import Activations, attention_out, mlp_out, neurons
from mechinterp.models import Transformer

ROWS = 1024


@dataclass(frozen=True, eq=False)
class Resumer:
    """Runs the rest of a model from cached activations.

    Args:
        model: A `Transformer` without hooks.
        base: The run that all others share their beginning with.
        positions: Scored positions of each example, `[batch, kept]`; only there is an output computed.
        output: The base run's output there, `[batch, kept, out]`.
    """

    model: Transformer
    base: Activations
    positions: Int[Tensor, "batch kept"]
    output: Float[Tensor, "batch kept out"]

    @classmethod
    @torch.no_grad()
    def at(cls, model: Transformer, base: Activations, positions: Int[Tensor, "batch kept"]) -> Resumer:
        """A resumer, with the base run's output computed."""
        return cls(model, base, positions, model.read(take(base.final, positions)))

    def from_pre(
        self, layer: int, resid: Float[Tensor, "patch batch tail d_model"], start: int = 0
    ) -> Float[Tensor, "patch batch kept out"]:
        """Output when the residual stream before `layer` is `resid` from position `start` on."""
        last = self.model.config.n_layers - 1
        for at in range(layer, last):
            resid = self._layer(at, resid, start)
        resid = self._last_layer(last, resid, start) if layer <= last else self.kept(resid, start)
        return self._read(resid, start)

    def from_mid(
        self, layer: int, resid: Float[Tensor, "patch batch tail d_model"], start: int = 0
    ) -> Float[Tensor, "patch batch kept out"]:
        """Output when the stream after `layer`'s attention is `resid` from position `start` on."""
        if layer < self.model.config.n_layers - 1:
            return self.from_pre(layer + 1, self._mlp(layer, resid), start)
        return self.from_mid_kept(self.kept(resid, start), start)

    def from_mid_row(
        self,
        layer: int,
        row: Float[Tensor, "patch batch d_model"],
        where: Int[Tensor, "patch batch"],
        start: int = 0,
    ) -> Float[Tensor, "patch batch kept out"]:
        """As `from_mid`, where the stream differs from the base run's at one position of each example, `where`."""
        return self.from_pre_row(layer + 1, self._mlp(layer, row), where, start)

    def from_pre_row(
        self,
        layer: int,
        row: Float[Tensor, "patch batch d_model"],
        where: Int[Tensor, "patch batch"],
        start: int = 0,
    ) -> Float[Tensor, "patch batch kept out"]:
        """As `from_pre`, where the stream differs from the base run's at one position of each example, `where`.

        Args:
            layer: A layer of the model: some attention follows.
            row: The stream there.
            where: Positions, none before `start`.
            start: Where the runs begin to differ.
        """
        block, base, last = self.model.blocks[layer], self.base, self.model.config.n_layers - 1
        shift = None if base.shift is None else base.shift[where]
        x = block.ln1(row)
        made = {kind: project_one(block.attn, kind, x, None if kind == "v" else shift) for kind in "qkv"}
        k, v = (_with_row(getattr(base, kind)[layer], made[kind], where) for kind in "kv")
        if layer == last:
            at_where = self.positions == where[..., None]
            q = torch.where(
                at_where[..., None, None], made["q"][:, :, None], _take_heads(base.q[layer], self.positions)
            )
            resid = torch.where(at_where[..., None], row[:, :, None], take(base.resid_pre[layer], self.positions))
        else:
            q = _with_row(base.q[layer][:, start:], made["q"], where - start)
            resid = _with_row(base.resid_pre[layer][:, start:], row, where - start)
        z = self.attend(layer, q, k, v, start, kept=layer == last)
        resid = self._mlp(layer, attention_out(block, z).add_(resid))
        return self._read(resid, start) if layer == last else self.from_pre(layer + 1, resid, start)

    def from_mid_kept(
        self, resid: Float[Tensor, "patch batch kept d_model"], start: int = 0
    ) -> Float[Tensor, "patch batch kept out"]:
        """Output when the stream after the last layer's attention is `resid` at the scored positions."""
        return self._read(self._mlp(self.model.config.n_layers - 1, resid), start)

    def from_final_kept(
        self, resid: Float[Tensor, "patch batch kept d_model"]
    ) -> Float[Tensor, "patch batch kept out"]:
        """Output when the stream before the final norm is `resid` at the scored positions."""
        return self._read(resid, 0)

    def kept(self, values: Shaped[Tensor, "*patch batch tail width"], start: int = 0) -> Tensor:
        """Values at the scored positions; those before `start` are filled with what stands at `start`."""
        return take(values, (self.positions - start).clamp(min=0))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, start: int = 0, kept: bool = False
    ) -> Float[Tensor, "... query head d_head"]:
        """Attention output of a layer.

        Args:
            layer: Whose attention.
            q: Queries before rotary positions, at positions from `start` on, or at the scored ones if `kept`.
            k: Keys before rotary positions, at all positions, `[... seq head d_head]`.
            v: Values at all positions.
            start: The first query's position.
            kept: Whether queries are the scored positions, `[... batch kept head d_head]`.
        """
        attn = self.model.blocks[layer].attn
        if self.model.config.positions == "rotary":
            at = self.positions if kept else torch.arange(start, start + q.shape[-3], device=q.device)
            q, k = rotate(attn, q, at), rotate(attn, k, torch.arange(k.shape[-3], device=k.device))
        at = (
            self.positions[:, None, :, None]
            if kept
            else torch.arange(start, start + q.shape[-3], device=q.device)[:, None]
        )
        seen = torch.arange(k.shape[-3], device=k.device) <= at if self.model.config.causal else None
        return attention(attn, q, k, v, seen)

    def _layer(self, layer: int, resid: Tensor, start: int) -> Tensor:
        block = self.model.blocks[layer]
        q, k, v = block.attn.project(block.ln1(resid), {}, self._shift(start))
        k, v = self._whole(self.base.k[layer], k, start), self._whole(self.base.v[layer], v, start)
        # In place on what was just made: a large tensor less to fill.
        return self._mlp(layer, attention_out(block, self.attend(layer, q, k, v, start)).add_(resid))

    def _last_layer(self, layer: int, resid: Tensor, start: int) -> Tensor:
        block, heads = self.model.blocks[layer], (self.model.config.n_heads, self.model.config.d_head)
        x, few = block.ln1(resid), self.kept(resid, start)
        q = project_one(block.attn, "q", self.kept(x, start), self._shift_kept())
        k = project_one(block.attn, "k", x, self._shift(start))
        v = project_one(block.attn, "v", x, None)
        assert q.shape[-2:] == heads
        k, v = self._whole(self.base.k[layer], k, start), self._whole(self.base.v[layer], v, start)
        return self._mlp(layer, few + attention_out(block, self.attend(layer, q, k, v, start, kept=True)))

    def _mlp(self, layer: int, resid: Tensor) -> Tensor:
        block = self.model.blocks[layer]
        if not block.has_mlp:
            return resid
        # A few rows at a time: their neurons stay in the processor's cache.
        parts = resid.flatten(0, -2).split(ROWS)
        return torch.cat([mlp_out(block, neurons(block, part)).add_(part) for part in parts]).view(resid.shape)

    def _read(self, resid: Tensor, start: int) -> Tensor:
        output = self.model.read(resid)
        if start == 0:
            return output
        early = (self.positions < start)[..., None]
        return torch.where(early, self.output, output)

    def _whole(self, base: Tensor, tail: Tensor, start: int) -> Tensor:
        if start == 0:
            return tail
        head = base[:, :start].expand(*tail.shape[:-4], *base[:, :start].shape)
        return torch.cat([head, tail], dim=-3)

    def _shift(self, start: int) -> Tensor | None:
        return None if self.base.shift is None else self.base.shift[start:]

    def _shift_kept(self) -> Tensor | None:
        return None if self.base.shift is None else self.base.shift[self.positions]


def take(values: Shaped[Tensor, "*lead batch seq width"], positions: Int[Tensor, "batch kept"]) -> Tensor:
    """`values` at some positions of each example, `[*lead, batch, kept, width]`."""
    index = positions[..., None].expand(*values.shape[:-2], positions.shape[-1], values.shape[-1])
    return values.gather(-2, index)


def _take_heads(values: Float[Tensor, "batch seq head d_head"], positions: Int[Tensor, "batch kept"]) -> Tensor:
    return take(values.flatten(-2), positions).unflatten(-1, values.shape[-2:])


def _with_row(values: Tensor, row: Tensor, where: Int[Tensor, "patch batch"]) -> Tensor:
    """Copies of `values` (`[batch, seq, ...]`), one per patch, with `row` (`[patch, batch, ...]`) at `where`."""
    copies = values.expand(len(row), *values.shape).clone()
    patch, batch = (torch.arange(size, device=where.device) for size in where.shape)
    copies[patch[:, None], batch, where] = row
    return copies


def project_one(attn, kind: str, x: Float[Tensor, "... d_model"], shift: Tensor | None) -> Tensor:
    """q, k or v of all heads, `[... head d_head]`."""
    weight = getattr(attn, f"W_{kind.upper()}")
    if shift is not None:
        x = x + shift
    bias = getattr(attn, f"b_{kind.upper()}").flatten() if attn.config.attn_bias else None
    return F.linear(x, weight.transpose(1, 2).flatten(0, 1), bias).unflatten(-1, weight.shape[::2])


def rotate(attn, x: Float[Tensor, "... seq head d_head"], at: Tensor) -> Tensor:
    """Rotary positions, for queries or keys that stand at positions `at` (`[seq]` or `[batch, seq]`)."""
    cos, sin = attn.cos[at].unsqueeze(-2).to(x.dtype), attn.sin[at].unsqueeze(-2).to(x.dtype)
    turned = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    return x * cos + turned * sin


def attention(attn, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Float[Tensor, "... query head d_head"]:
    """Attention-weighted values.

    Args:
        attn: Whose scale and kind.
        q: `[... query head d_head]`; leading axes of q, k and v broadcast.
        k: `[... seq head d_head]`.
        v: `[... seq head d_head]`.
        seen: Which keys a query may see, bool `[query, seq]` or `[batch, 1, query, seq]`; None for all.
    """
    q, k, v = (part.transpose(-2, -3) for part in (q, k, v))
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    if attn.config.attention == "softmax":
        if seen is not None and seen.ndim > 2:
            seen = seen.expand(*lead[:-1], *seen.shape[-3:]).flatten(0, -4)
        q, k, v = (part.expand(*lead, *part.shape[-2:]).flatten(0, -4) for part in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=attn.scale)
        return z.unflatten(0, lead[:-1]).transpose(-2, -3)
    weights = (q * attn.scale) @ k.transpose(-1, -2)
    return ((weights if seen is None else weights * seen) @ v).transpose(-2, -3)
