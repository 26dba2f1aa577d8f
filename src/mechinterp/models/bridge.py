"""Our model as TransformerLens's `TransformerBridge`.

The bridge is built around TransformerLens's own small model (its *native* source), which is expressed in other modules
than ours: what it cannot express is refused by name. What it can is copied, so that neither model sees later changes of
the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from mechinterp.core import UnsupportedError
from mechinterp.models.transformer import Transformer

if TYPE_CHECKING:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

EXPRESSIBLE = {
    "inputs": (("tokens",), "it embeds tokens only"),
    "attention": (("softmax",), "its attention is softmax"),
    "positions": (("learned", "rotary", "none"), "its positions are added to the residual stream or rotate q and k"),
    "rotary_dim": ((None,), "it rotates all features of a head"),
    "rotary_scaling": (("default",), "it does not scale angles"),
    "act_fn": (("relu", "gelu", "gelu_new", "silu"), "it has no SoLU"),
    **{
        name: ((value,), reason)
        for name, value, reason in (
            ("n_kv_heads", None, "each of its heads has its own keys and values"),
            ("parallel_blocks", False, "its MLP reads what the layer's heads write"),
            ("gated_mlp", False, "its MLP has no gate"),
            ("qk_norm", False, "it does not normalise queries and keys"),
            ("smeared_keys", False, "it does not mix keys"),
            ("pad_token", None, "it has no padding"),
        )
    },
}
"""Setting -> the values that the native model can express, and why it has no others."""


def to_bridge(model: Transformer) -> TransformerBridge:
    """The same function as a `TransformerBridge`, for everything that TransformerLens offers on one.

    Args:
        model: Not with vector inputs, attention other than softmax, shortformer positions, a readout, or what
            `EXPRESSIBLE` lists besides. What the native model has and ours lacks becomes zeros: biases of attention and
            MLPs, learned positions, the unembedding's bias. Tied embeddings become two.

    Returns:
        A bridge in evaluation mode, in the model's type and on its device, with copies of the weights. Outputs agree
        to rounding; with RMS norm to single precision, in which the native model always computes it.

    Raises:
        UnsupportedError: If the native model cannot express a setting, naming it.

    >>> from mechinterp.models import ModelConfig
    >>> model = Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=5, n_ctx=6))
    >>> tokens = torch.arange(5)[None]
    >>> torch.allclose(to_bridge(model)(tokens), model(tokens), atol=1e-5)
    True
    """
    # Heavy to import, and needed here alone.
    from transformer_lens.model_bridge.sources.native import boot
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    settings = bridge_settings(model)
    bridge = boot(settings, device=model.device, dtype=model.dtype, model_name="mechinterp")
    bridge.load_state_dict(convert_tl_checkpoint(_weights(model), bridge.cfg), strict=True)
    native: Any = bridge.original_model
    config = model.config
    for layer in native.layers:
        # Not through `cfg.attn_scale`: 1 is refused there, and no scale is out of reach here.
        layer.attn.original_component.scale = math.sqrt(config.d_head) / config.attn_scale
    bridge.cfg.attn_scale = math.sqrt(config.d_head) / config.attn_scale
    if config.positions == "rotary":
        # The native tables are made in single precision and from a whole-numbered base.
        native.rotary.cos_cached = model.blocks[0].attn.cos.clone()
        native.rotary.sin_cached = model.blocks[0].attn.sin.clone()
    return bridge.eval()


def bridge_settings(model: Transformer) -> TransformerBridgeConfig:
    """The `TransformerBridgeConfig` of a model.

    Raises:
        UnsupportedError: If there is none.
    """
    from transformer_lens.config import TransformerBridgeConfig

    config = model.config
    for name, (values, reason) in EXPRESSIBLE.items():
        if getattr(config, name) not in values and not (name == "n_kv_heads" and config.shared == 1):
            raise UnsupportedError(f"no TransformerBridge for {name}='{getattr(config, name)}': {reason}")
    if config.readout_layers:
        raise UnsupportedError("no TransformerBridge for readout_layers > 0: it unembeds the stream directly")
    return TransformerBridgeConfig(
        d_model=config.d_model,
        d_head=config.d_head,
        n_heads=config.n_heads,
        n_layers=config.n_layers,
        n_ctx=config.n_ctx,
        d_vocab=config.features_in,
        d_vocab_out=config.features_out,
        d_mlp=config.d_mlp or None,
        attn_only=config.d_mlp == 0,
        act_fn=config.act_fn,
        eps=config.norm_eps,
        normalization_type=None if config.normalization == "none" else config.normalization,
        positional_embedding_type="rotary" if config.positions == "rotary" else "standard",
        rotary_dim=config.d_head if config.positions == "rotary" else None,
        rotary_base=config.rotary_base,
        rotary_adjacent_pairs=True,
        attention_dir="causal" if config.causal else "bidirectional",
        seed=0,  # with a seed it builds in a fork of torch's generator; the weights are replaced anyway
        architecture="TransformerLensNative",
        dtype=model.dtype,
    )


def _weights(model: Transformer) -> dict[str, torch.Tensor]:
    """All weights under TransformerLens's older names, zeros where the native model has what ours lacks."""
    config = model.config
    weights = dict(model.state_dict())
    for name in ("b_Q", "b_K", "b_V", "b_O"):
        weights |= {f"blocks.{i}.attn.{name}": bias for i, bias in enumerate(getattr(model, name))}
    if config.d_mlp and not config.mlp_bias:
        for layer in range(config.n_layers):
            weights[f"blocks.{layer}.mlp.b_in"] = model.W_E.new_zeros(config.d_mlp)
            weights[f"blocks.{layer}.mlp.b_out"] = model.W_E.new_zeros(config.d_model)
    weights["unembed.W_U"] = model.W_U
    if config.positions == "none":
        weights["pos_embed.W_pos"] = model.W_E.new_zeros(config.n_ctx, config.d_model)
    weights["unembed.b_U"] = model.b_U
    return weights
