"""The MLP of a layer. It acts on each row by itself: on any rows, in any order. Names and shapes are TransformerLens's.

What runs a part of the model asks the MLP for its neurons and for what they write, and never reads its weights; so a
kind of MLP is a setting of `ModelConfig` and a few lines here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mechinterp.models.config import ModelConfig
from mechinterp.models.norm import Norm

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "solu": lambda x: x * x.softmax(-1),
    "solu_ln": lambda x: x * x.softmax(-1),
}
"""SoLU: Elhage et al. 2022, https://transformer-circuits.pub/2022/solu; `solu_ln` has a layer norm after it."""


class MLP(nn.Module):
    """Two linear maps with an activation between them.

    A gated one activates a third map of its input, `x W_gate + b_gate`, and multiplies it with `x W_in + b_in`. Neurons
    before the activation (`hook_pre`) are then those of the gate, the others pass `hook_pre_linear`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp)) if config.mlp_bias else None
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model)) if config.mlp_bias else None
        self.act = ACTIVATIONS[config.act_fn]
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()
        self.gated = config.gated_mlp
        if self.gated:
            self.W_gate = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
            self.b_gate = nn.Parameter(torch.zeros(config.d_mlp)) if config.mlp_bias else None
            self.hook_pre_linear = HookPoint()
        self.ln = Norm("LN", config.d_mlp, config.norm_eps) if config.act_fn == "solu_ln" else None

    @property
    def bias(self) -> Float[Tensor, " d_model"] | None:
        """What it writes whatever its neurons do."""
        return self.b_out

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return F.linear(self.neurons(x), self.W_out.T, self.b_out)

    def neurons(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
        """Neurons as they are written: after the activation, the gate and the norm."""
        linear = F.linear(x, self.W_in.T, self.b_in)
        if self.gated:
            gate = self.act(self.hook_pre(F.linear(x, self.W_gate.T, self.b_gate)))
            neurons = gate * self.hook_pre_linear(linear)
        else:
            neurons = self.act(self.hook_pre(linear))
        return self.hook_post(neurons if self.ln is None else self.ln(neurons))

    def write(self, neurons: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
        """What neurons add to the stream together, without the bias."""
        return neurons @ self.W_out

    def write_each(
        self, neurons: Float[Tensor, "... row few"], few: slice
    ) -> Float[Tensor, "... few batch row d_model"]:
        """What some neurons add to the stream one by one, without the bias."""
        return torch.einsum("...bsn,nm->...nbsm", neurons, self.W_out[few])
