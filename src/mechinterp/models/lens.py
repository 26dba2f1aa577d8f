"""What TransformerLens's own tools ask of a model: weights of all layers stacked, its configuration, its methods.

`ActivationCache`, `transformer_lens.patching` and `detect_head` call these; our analyses do not need them. Patching
from TransformerLens refuses a model in training mode: call `model.eval()` first, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache, FactoredMatrix, HookedRootModule

from mechinterp.core import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from mechinterp.models.block import Block
    from mechinterp.models.config import ModelConfig
    from mechinterp.models.ends import Embed, PosEmbed, Unembed


class LensTools(HookedRootModule):
    """Base of `Transformer`; names and meanings are TransformerLens's."""

    if TYPE_CHECKING:
        config: ModelConfig
        embed: Embed
        pos_embed: PosEmbed
        blocks: Sequence[Block]
        unembed: Unembed

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.embed.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.embed.W_E.dtype

    @property
    def cfg(self) -> SimpleNamespace:
        """The configuration under TransformerLens's names, for its utilities."""
        config = self.config
        kinds = {"learned": "standard"}
        extra = {
            "attn_only": config.d_mlp == 0,
            "d_mlp": config.d_mlp or None,
            "d_vocab_out": config.features_out,
            "normalization_type": None if config.normalization == "none" else config.normalization,
            "positional_embedding_type": kinds.get(config.positions, config.positions),
            "n_key_value_heads": config.kv_heads if config.shared > 1 else None,
            "eps": config.norm_eps,
            "device": self.device,
            "dtype": self.dtype,
            "use_attn_result": False,
            "use_split_qkv_input": True,
            "use_hook_mlp_in": True,
            "use_attn_in": False,
        }
        return SimpleNamespace(**{**config.model_dump(), **extra})

    W_E = property(lambda self: self.embed.W_E, doc="Embedding `[d_vocab or d_in, d_model]`.")
    W_U = property(lambda self: self.unembed.W_U, doc="Unembedding `[d_model, d_vocab_out or d_out]`.")
    W_Q = property(lambda self: self._stack("W_Q"), doc="Query weights `[layer, head, d_model, d_head]`.")
    W_K = property(
        lambda self: self._stack("W_K"), doc="Key weights `[layer, head, d_model, d_head]`, shared ones repeated."
    )
    W_V = property(
        lambda self: self._stack("W_V"), doc="Value weights `[layer, head, d_model, d_head]`, shared ones repeated."
    )
    W_O = property(lambda self: self._stack("W_O"), doc="Output weights `[layer, head, d_head, d_model]`.")
    b_Q = property(lambda self: self._stack("b_Q"), doc="Query biases `[layer, head, d_head]`, 0 where absent.")
    b_K = property(lambda self: self._stack("b_K"), doc="Key biases `[layer, head, d_head]`, 0 where absent.")
    b_V = property(lambda self: self._stack("b_V"), doc="Value biases `[layer, head, d_head]`, 0 where absent.")
    b_O = property(lambda self: self._stack("b_O"), doc="Output biases `[layer, d_model]`, 0 where absent.")

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Learned positions.

        Raises:
            UnsupportedError: If positions are rotary or absent.
        """
        if not hasattr(self, "pos_embed"):
            raise UnsupportedError(f"positions='{self.config.positions}' has no W_pos")
        return self.pos_embed.W_pos

    @property
    def b_U(self) -> Float[Tensor, " out"]:
        """Bias of the unembedding, 0 where absent."""
        return self.unembed.b_U if self.config.unembed_bias else self.W_U.new_zeros(self.config.features_out)

    def _stack(self, name: str) -> Tensor:
        config = self.config
        if name.startswith("b_") and not (config.out_bias if name == "b_O" else config.attn_bias):
            shape = (config.d_model,) if name == "b_O" else (config.n_heads, config.d_head)
            return self.W_U.new_zeros(config.n_layers, *shape)
        parts = [getattr(block.attn, name) for block in self.blocks]
        if name[-1] in "KV":
            parts = [block.attn.spread(part, 0) for block, part in zip(self.blocks, parts, strict=True)]
        return torch.stack(parts)

    def run_with_cache(self, *args, remove_batch_dim: bool = False, **kwargs) -> tuple[Tensor | None, ActivationCache]:
        """As in TransformerLens: the output, and all activations (or those of `names_filter`) in an `ActivationCache`.

        The cache computes per-head results and forked inputs, whatever their size: give `names_filter` for less.
        """
        output, cached = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
        return output, ActivationCache(cached, self, has_batch_dim=not remove_batch_dim)  # type: ignore[arg-type]

    @property
    def QK(self) -> FactoredMatrix:
        """`W_Q W_K^T` of every head, `[layer, head, d_model, d_model]`, in factors."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-1, -2))

    @property
    def OV(self) -> FactoredMatrix:
        """`W_V W_O` of every head, `[layer, head, d_model, d_model]`, in factors."""
        return FactoredMatrix(self.W_V, self.W_O)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the biases that are in the residual stream before a layer.

        Args:
            layer: Up to `n_layers`, which is the stream before the final norm.
            mlp_input: Whether it is what the layer's MLP reads: the bias of its attention counts too, unless both read
                one stream.
            include_mlp_biases: Whether MLPs' output biases count.

        Raises:
            ShapeError: If the model has no such layer.
        """
        last = self.config.n_layers - mlp_input
        if not 0 <= layer <= last:
            raise ShapeError(f"layer={layer} with mlp_input={mlp_input}: allowed are 0 to {last}")
        attending = layer + (mlp_input and not self.config.parallel_blocks)
        parts = [block.attn.bias for block in self.blocks[:attending]]
        if include_mlp_biases and self.config.d_mlp:
            parts += [block.mlp.bias for block in self.blocks[:layer]]
        parts = [part for part in parts if part is not None]
        return torch.stack(parts).sum(0) if parts else self.W_U.new_zeros(self.config.d_model)

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Float[Tensor, "*tokens d_model"]:
        """The unembedding's columns of some tokens; one token gives `[d_model]` whatever its shape.

        Raises:
            UnsupportedError: If tokens are text, or a readout lies between the stream and the unembedding.
        """
        if self.config.readout_layers:
            raise UnsupportedError("with readout_layers > 0 no direction of the stream belongs to a token")
        if not isinstance(tokens, Tensor) or tokens.numel() == 1:
            return self.W_U[:, self.to_single_token(tokens)]
        return self.W_U[:, tokens].movedim(0, -1)

    def to_tokens(self, tokens: object, *args: object, **kwargs: object) -> Tensor:
        """Token numbers as they are, with a batch axis; the model has no tokenizer.

        Raises:
            UnsupportedError: If tokens are text.
        """
        if not isinstance(tokens, Tensor):
            raise UnsupportedError(f"this model has no tokenizer: give token numbers [batch, seq], not {tokens!r}")
        return (tokens[None] if tokens.ndim == 1 else tokens).to(self.device)

    def to_single_token(self, token: str | int | Tensor) -> int:
        """A token's number.

        Raises:
            UnsupportedError: If the token is text.
        """
        if isinstance(token, str):
            raise UnsupportedError(f"this model has no tokenizer: give a token's number, not {token!r}")
        return int(token)

    def set_use_attn_result(self, on: bool) -> None:
        """Nothing to switch: `hook_result` is there whenever it is hooked."""

    def set_use_split_qkv_input(self, on: bool) -> None:
        """Nothing to switch: `hook_q_input`, `hook_k_input` and `hook_v_input` are there whenever they are hooked."""

    def set_use_hook_mlp_in(self, on: bool) -> None:
        """Nothing to switch: `hook_mlp_in` is there."""

    def set_use_attn_in(self, on: bool) -> None:
        """Only off.

        Raises:
            UnsupportedError: If it is to be switched on.
        """
        if on:
            raise UnsupportedError("no hook_attn_in: use hook_q_input, hook_k_input and hook_v_input")
