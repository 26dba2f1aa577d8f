"""Where a `Transformer` begins and ends: embedding, positions, readout, unembedding. Names are TransformerLens's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.models.config import ModelConfig
from mechinterp.models.mlp import ACTIVATIONS


class Embed(nn.Module):
    """Embedding `W_E` of tokens or vectors, `[d_vocab or d_in, d_model]`; the identity if it is fixed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        trained = config.embedding == "learned"
        self.W_E = nn.Parameter(torch.eye(config.features_in, config.d_model), requires_grad=trained)


class PosEmbed(nn.Module):
    """Learned positions `W_pos`, `[n_ctx, d_model]`; if they are fixed, one-hot in the dimensions after the inputs'."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        trained = config.embedding == "learned"
        start = torch.eye(config.n_ctx, config.d_model).roll(config.features_in, 1)
        self.W_pos = nn.Parameter(start, requires_grad=trained)


class Readout(nn.Module):
    """Hidden layers between the final norm and the unembedding: `W_in` `[layer, d_model, d_model]` and `b_in`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.readout_layers, config.d_model, config.d_model))
        self.b_in = nn.Parameter(torch.zeros(config.readout_layers, config.d_model))
        self.act = ACTIVATIONS[config.act_fn]

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        for weight, bias in zip(self.W_in, self.b_in, strict=True):
            x = self.act(F.linear(x, weight.T, bias))
        return x


class Unembed(nn.Module):
    """Unembedding `W_U`, `[d_model, d_vocab_out or d_out]`, and its bias where the model has one.

    Args:
        config: The architecture.
        embed: The embedding, whose transpose a tied unembedding is.
    """

    W_U: Tensor

    def __init__(self, config: ModelConfig, embed: Embed) -> None:
        super().__init__()
        if not config.tied_embeddings:
            self.W_U = nn.Parameter(torch.empty(config.d_model, config.features_out))
        if config.unembed_bias:
            self.b_U = nn.Parameter(torch.zeros(config.features_out))
        self._tied = [embed]  # in a list, so that it is no part of this module, and its weights are not listed twice

    def __getattr__(self, name: str) -> Any:
        """Only what is not there otherwise, and so `W_U` where it is tied."""
        if name == "W_U" and "W_U" not in self._parameters:
            return self._tied[0].W_E.T
        return super().__getattr__(name)
