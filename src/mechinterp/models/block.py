"""A block, which is one layer: how attention and MLP read the residual stream and write to it (parallel or in turn).

The forward pass is written here and in what a block is made of (`norm`, `attention`, `mlp`), and nowhere else. Whatever
runs a part of it (`interventions`, `patching`) calls the same methods at some of the positions: norms, `project`,
`mlp_reads` and `add_mlp` act on each row by itself.
"""

from __future__ import annotations

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mechinterp.models.attention import Attention
from mechinterp.models.config import ModelConfig
from mechinterp.models.hook_points import hooked
from mechinterp.models.mlp import MLP
from mechinterp.models.norm import Norm, make_norm
from mechinterp.models.positions import Positions


class Block(nn.Module):
    """One layer: attention, then an MLP where the model has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.parallel = config.parallel_blocks
        self.ln1 = make_norm(config)
        self.attn = Attention(config)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.has_mlp = config.d_mlp > 0
        if self.has_mlp:
            self.ln2, self.mlp = make_norm(config), MLP(config)
            self.hook_resid_mid, self.hook_mlp_in, self.hook_mlp_out = HookPoint(), HookPoint(), HookPoint()

    def forward(self, resid: Float[Tensor, "... seq d_model"], where: Positions) -> Float[Tensor, "... seq d_model"]:
        resid = self.hook_resid_pre(resid)
        z = self.attn.attend(*self.project(resid, where), where, where)
        mid = resid + self.hook_attn_out(self.attn.write(z))
        if self.has_mlp:
            mid = self.hook_resid_mid(mid)
            mid = self.add_mlp(mid, self.mlp_reads(resid, mid))
        return self.hook_resid_post(mid)

    def project(self, resid: Float[Tensor, "... row d_model"], where: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, `[... row head d_head]`; those whose input is hooked read forks of the stream."""
        points = {"q": self.hook_q_input, "k": self.hook_k_input, "v": self.hook_v_input}
        forks = [kind for kind, point in points.items() if hooked(point)]
        projected = {}
        for kind in forks:
            # Copies in memory too, so that a hook can edit one head's in place.
            copies = repeat(resid, "... d_model -> ... head d_model", head=self.attn.many(kind)).clone()
            projected[kind] = self.attn.project_heads(kind, self.ln1(points[kind](copies)), where)
        shared = "".join(kind for kind in points if kind not in forks)
        # The shared stream is normalised last, so that a cache of ln1's hooks keeps its usual shape.
        if shared or (isinstance(self.ln1, Norm) and hooked(self.ln1.hook_scale, self.ln1.hook_normalized)):
            x = self.ln1(resid)
            if shared:
                projected |= zip(shared, self.attn.project(shared, x, where), strict=True)
        return projected["q"], projected["k"], projected["v"]

    def fork_gradients(
        self,
        resid: Float[Tensor, "point batch seq d_model"],
        forks: Float[Tensor, "point batch seq all_forks d_head"],
        grads: Float[Tensor, "point batch seq all_forks d_head"],
        where: Positions,
    ) -> Float[Tensor, "all_forks batch seq d_model"]:
        """Gradients at each query's, key's and value's own input, before the norm, summed over points.

        All points share one product with the weights. Let W be the weights, w, s, h and C as in `Norm.derivative`, and
        g the gradient at a fork: at its input that is `s (C(w W g) - h mean(h w W g))`. The first term is linear in
        `s g`, which is summed over points first; the mean is `g . (W' (w h)) / d_model`, and `W' (w h)` is the fork
        itself less what it is where the norm puts out its offset.

        Args:
            resid: The stream before the layer.
            forks: Queries, keys and values, side by side.
            grads: Gradients with respect to them.
            where: All positions.
        """
        norm = self.ln1
        if not isinstance(norm, Norm):
            return self.attn.pull("qkv", grads.sum(0))
        scale, direction = norm.derivative(resid)
        pulled = norm.centred(self.attn.pull("qkv", (grads * scale[..., None]).sum(0)).mul_(norm.w))
        offset = norm.offset.expand(resid.shape[-2:])
        moved = forks - torch.cat(self.attn.project("qkv", offset, where), -2)
        share = (moved * grads).sum(-1) * (scale / resid.shape[-1])
        return pulled.sub_(torch.einsum("pbsf,pbsm->fbsm", share, direction))

    def mlp_reads(self, pre: Float[Tensor, "... d_model"], mid: Float[Tensor, "... d_model"]) -> Tensor:
        """The stream that the MLP reads, of the streams before the layer and after its attention."""
        return pre if self.parallel else mid

    def add_mlp(
        self, mid: Float[Tensor, "... d_model"], read: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """The stream after the MLP, from the one before it and what the MLP reads."""
        # A copy, so that a hook can edit what the MLP reads in place and leave the stream alone.
        read = self.hook_mlp_in(read.clone() if hooked(self.hook_mlp_in) else read)
        return mid + self.hook_mlp_out(self.mlp(self.ln2(read)))
