"""Models of Hugging Face's `transformers`: GPT-2, GPT-NeoX (Pythia), Llama, Mistral, Qwen2 and Qwen3.

A family is a function from its configuration to ours, and the table of its weights. Nothing here imports
`transformers`: the model that comes in is read by its names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.core import UnsupportedError, in_words
from mechinterp.models.config import ModelConfig
from mechinterp.models.convert.comparison import compare, evaluating, tolerance
from mechinterp.models.convert.families import GPT2, GPT_NEOX, LLAMA
from mechinterp.models.convert.refusal import refuse_if
from mechinterp.models.convert.tables import Row, from_weights
from mechinterp.models.transformer import Transformer

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
}
"""Their activations -> ours."""
_HALF = (torch.bfloat16, torch.float16)

_Settings = dict[str, object]


@dataclass(frozen=True)
class Family:
    """How one class of models is read.

    Args:
        settings: From their configuration to ours; appends to the list what cannot be expressed.
        table: Our weights -> theirs.
        exact: Whether they compute every part in the weights' type; others round norms, angles or softmax to float32.
    """

    settings: Callable[[Any, list[str]], _Settings]
    table: Mapping[str, Row]
    exact: bool = False


def from_hf(model: nn.Module, *, n_ctx: int | None = None) -> Transformer:
    """A `Transformer` that computes what a Hugging Face model does.

    The result is compared with the model on a random batch: log probabilities agree to 1e-4 in float32; in float64 to
    1e-9 for GPT-2, and to 1e-5 for the others, which compute norms, angles or softmax in float32 whatever their type.

    Args:
        model: A `GPT2LMHeadModel`, `GPTNeoXForCausalLM`, `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM`
            or `Qwen3ForCausalLM`.
        n_ctx: The longest sequence, at most the model's own; less takes less memory, and fits into a sliding window.

    Returns:
        The same function, with copies of the weights in their type, in evaluation mode. Dropout is left out. Features
        of rotary queries and keys are reordered, so that those which turn together stand side by side.

    Raises:
        UnsupportedError: If a setting has no counterpart, with every reason; or if the outputs differ all the same.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> theirs = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=6))
    >>> from_hf(theirs).config.act_fn
    'gelu_new'
    """
    family = family_of(model)
    config = hf_config(model, n_ctx)
    dtype = next(model.parameters()).dtype
    with evaluating(model):
        if dtype not in _HALF:
            allowed = tolerance(dtype, family.exact)
            return from_weights(model, config, family.table, logits=_logits(model), rotary_halves=True, allowed=allowed)
        # Rounding to half precision would hide what is wrong: both are compared in float32.
        converted = from_weights(model.state_dict(), config, family.table, rotary_halves=True)
        compare(copy.deepcopy(converted).float(), _logits(copy.deepcopy(model).float()), tolerance(torch.float32))
        return converted


def hf_config(model: nn.Module, n_ctx: int | None = None) -> ModelConfig:
    """Our configuration of a Hugging Face model.

    Raises:
        UnsupportedError: If a setting has no counterpart, with every reason.
    """
    theirs: Any = model.config
    reasons: list[str] = []
    settings = family_of(model).settings(theirs, reasons)
    longest = int(theirs.max_position_embeddings)
    settings["n_ctx"] = longest if n_ctx is None else n_ctx
    if n_ctx is not None and n_ctx > longest:
        reasons.append(f"n_ctx={n_ctx}, and the model goes up to {longest}")
    window = settings.pop("window", None)
    if isinstance(window, int) and window < int(str(settings["n_ctx"])):
        reasons.append(f"a sliding window of {window} below n_ctx={settings['n_ctx']} (give n_ctx={window} or less)")
    embed, unembed = (getattr(model, f"get_{end}_embeddings")() for end in ("input", "output"))
    act = settings["act_fn"] = _ACTIVATIONS.get(str(settings["act_fn"]), settings["act_fn"])
    if act not in _ACTIVATIONS.values():
        reasons.append(f"activation '{act}' (known: {', '.join(_ACTIVATIONS)})")
    refuse_if(reasons, type(model).__name__)
    tied = embed.weight is unembed.weight
    return ModelConfig.of(
        {
            **settings,
            "d_vocab": embed.weight.shape[0],
            "d_vocab_out": unembed.weight.shape[0],
            "tied_embeddings": tied,
        }
    )


def family_of(model: nn.Module) -> Family:
    """The family that a model belongs to.

    Raises:
        UnsupportedError: If it is none of those that can be expressed.
    """
    name = type(model).__name__
    if name not in MODEL_CLASSES:
        hint = " (a language model has an unembedding; this has none)" if name.endswith("Model") else ""
        raise UnsupportedError(
            f"no Transformer for a {name}: known are {in_words(MODEL_CLASSES, 'and')}{hint}; for modules of your "
            "own there is from_weights"
        )
    return MODEL_CLASSES[name]


def _logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda tokens: model(input_ids=tokens, use_cache=False).logits


def _gpt2(theirs: Any, reasons: list[str]) -> _Settings:
    if theirs.scale_attn_by_inverse_layer_idx:
        reasons.append("scale_attn_by_inverse_layer_idx=True: scores are scaled alike in all layers")
    if theirs.add_cross_attention:
        reasons.append("add_cross_attention=True: there is no second sequence")
    return {
        "n_layers": theirs.n_layer,
        "n_heads": theirs.n_head,
        "d_model": theirs.n_embd,
        "d_mlp": theirs.n_inner or 4 * theirs.n_embd,
        "act_fn": theirs.activation_function,
        "norm_eps": theirs.layer_norm_epsilon,
        "attn_scale": 1.0 if theirs.scale_attn_weights else math.sqrt(theirs.n_embd // theirs.n_head),
    }


def _gpt_neox(theirs: Any, reasons: list[str]) -> _Settings:
    d_head = theirs.hidden_size // theirs.num_attention_heads
    return {
        "n_layers": theirs.num_hidden_layers,
        "n_heads": theirs.num_attention_heads,
        "d_model": theirs.hidden_size,
        "d_mlp": theirs.intermediate_size,
        "act_fn": theirs.hidden_act,
        "norm_eps": theirs.layer_norm_eps,
        "attn_bias": theirs.attention_bias,
        "parallel_blocks": theirs.use_parallel_residual,
        **_rotary(theirs, d_head, reasons),
    }


def _llama_like(theirs: Any, reasons: list[str]) -> _Settings:
    """Llama, Mistral, Qwen2 and Qwen3: what one of them has alone is read where it is there."""
    d_head = theirs.head_dim if getattr(theirs, "head_dim", None) else theirs.hidden_size // theirs.num_attention_heads
    rotary = _rotary(theirs, d_head, reasons)
    if rotary.pop("rotary_dim", d_head) != d_head:
        reasons.append("partial_rotary_factor: this class turns whole heads")
    kind = theirs.model_type
    return {
        "n_layers": theirs.num_hidden_layers,
        "n_heads": theirs.num_attention_heads,
        "n_kv_heads": theirs.num_key_value_heads,
        "d_model": theirs.hidden_size,
        "d_head": d_head,
        "d_mlp": theirs.intermediate_size,
        "act_fn": theirs.hidden_act,
        "gated_mlp": True,
        "mlp_bias": bool(getattr(theirs, "mlp_bias", False)),
        "normalization": "RMS",
        "norm_eps": theirs.rms_norm_eps,
        "qk_norm": kind == "qwen3",
        "attn_bias": kind == "qwen2" or bool(getattr(theirs, "attention_bias", False)),
        "attn_out_bias": kind != "qwen2",
        "window": _window(theirs),
        **rotary,
    }


def _window(theirs: Any) -> int | None:
    """The sliding window of the layers that have one."""
    kinds = getattr(theirs, "layer_types", None)
    return getattr(theirs, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None


def _rotary(theirs: Any, d_head: int, reasons: list[str]) -> _Settings:
    """Rotary settings; version 5 of `transformers` keeps them in `rope_parameters`."""
    rope = getattr(theirs, "rope_parameters", None)
    if not isinstance(rope, Mapping) or "rope_theta" not in rope:
        reasons.append("no rope_parameters with one rope_theta for all layers (transformers 5 has them)")
        return {}
    kind = rope.get("rope_type", "default")
    settings: _Settings = {"positions": "rotary", "rotary_base": float(rope["rope_theta"]), "rotary_scaling": kind}
    rotated = int(d_head * rope.get("partial_rotary_factor", 1.0))
    if rotated < 2 or rotated % 2:
        reasons.append(f"rotary positions on {rotated} of a head's {d_head} features, which turn two by two")
    elif rotated < d_head:
        settings["rotary_dim"] = rotated
    if kind not in ("default", "linear", "llama3"):
        reasons.append(f"rotary positions of kind '{kind}' (known: default, linear, llama3)")
        return settings
    names = {"rotary_factor": "factor"} if kind != "default" else {}
    if kind == "llama3":
        names |= {"rotary_low": "low_freq_factor", "rotary_high": "high_freq_factor"}
        names["rotary_ctx"] = "original_max_position_embeddings"
    reasons += [f"rope_parameters lack '{name}'" for name in names.values() if name not in rope]
    return settings | {ours: rope[name] for ours, name in names.items() if name in rope}


MODEL_CLASSES = {
    "GPT2LMHeadModel": Family(_gpt2, GPT2, exact=True),
    "GPTNeoXForCausalLM": Family(_gpt_neox, GPT_NEOX),
    **{
        f"{name}ForCausalLM": Family(_llama_like, LLAMA)
        for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
    },
}  # fmt: skip
"""Class -> how it is read."""
