"""Models of TransformerLens: weights saved from its former `HookedTransformer`, and its `TransformerBridge`.

Names and shapes of a `HookedTransformer` are ours; what differs is said by the settings: rotary positions on feature
halves instead of adjacent pairs, norms whose weights were folded into what follows, biases that always exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.core import ConfigError, UnsupportedError, suggest
from mechinterp.models.config import ModelConfig
from mechinterp.models.convert.comparison import evaluating
from mechinterp.models.convert.families import BRIDGE, BRIDGE_GPT2
from mechinterp.models.convert.huggingface import MODEL_CLASSES, hf_config
from mechinterp.models.convert.refusal import refuse_if
from mechinterp.models.convert.tables import from_weights, load, to_pairs
from mechinterp.models.transformer import Transformer

NEEDED = ("n_layers", "n_heads", "d_model", "n_ctx", "d_vocab")
_SIZES = (*NEEDED, "d_head", "d_mlp", "d_vocab_out", "n_key_value_heads")
BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
_ACTIVATIONS: dict[str | None, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "solu_ln": "solu_ln",
}
NORMS: dict[str | None, str] = {"LN": "LN", "LNPre": "LN", "RMS": "RMS", "RMSPre": "RMS", None: "none"}
POSITIONS: dict[str | None, str] = {"standard": "learned", "rotary": "rotary", "shortformer": "shortformer"}
# Settings that change the function, and the only value with which our model is the same function.
ONLY = {
    "scale_attn_by_inverse_layer_idx": False, "use_local_attn": False, "final_rms": False, "post_embedding_ln": False,
    "use_normalization_before_and_after": False, "num_experts": None, "attn_scores_soft_cap": -1.0,
    "output_logits_soft_cap": -1.0, "rope_scaling": None, "relative_attention_max_distance": None,
}  # fmt: skip


def from_transformer_lens(
    source: nn.Module | Mapping[str, Tensor], settings: object = None, *, pad_token: int | None = None
) -> Transformer:
    """A `Transformer` that computes what a model of TransformerLens does.

    Args:
        source: What `HookedTransformer.state_dict()` gave (masks and rotary tables are left out); or a
            `TransformerBridge`, native or over a Hugging Face model that `from_hf` knows, which is compared with the
            result on a random batch.
        settings: With a state dict: its configuration, as `cfg` or as plain data (`cfg.to_dict()`).
        pad_token: The token that no query sees, where padding was hidden by a mask or by a hook on the scores.

    Returns:
        The same function, in the weights' type and evaluation mode. Queries and keys of rotary models on feature halves
        come with their features reordered, which changes no attention score.

    Raises:
        UnsupportedError: If settings have no counterpart, naming all of them; or if a bridge computes something else.
        ConfigError: If a setting is missing.
        ShapeError: If weights are missing, left over or of another shape than the settings say.
    """
    if isinstance(source, nn.Module):
        if settings is not None:
            raise ConfigError("a TransformerBridge has its settings: give them with a state dict only")
        return _from_bridge(source, pad_token)
    if settings is None:
        raise ConfigError("a state dict needs the settings of its HookedTransformer: give its `cfg`")
    plain = _plain(settings)
    config = legacy_config(source, plain, pad_token)
    weights = {name: value for name, value in source.items() if name.rsplit(".", 1)[-1] not in BUFFERS}
    # Keys and values that heads share are stored under names of their own.
    weights = {name.replace("._", "."): value for name, value in weights.items()}
    if not config.unembed_bias:
        weights.pop("unembed.b_U", None)
    model = Transformer(config, seed=None).to(weights["embed.W_E"].device, weights["embed.W_E"].dtype)
    if str(plain.get("normalization_type")).endswith("Pre"):
        # A norm without weights is the norm with weight 1 and bias 0, as a new model has it.
        norms = {name: value for name, value in model.state_dict().items() if _is_norm(name)}
        weights = {**norms, **weights}
    if config.gated_mlp:
        weights = _gate_bias_moved(weights, config)
    if config.positions == "rotary" and not plain.get("rotary_adjacent_pairs", False):
        weights = {name: to_pairs(name, value, config.rotated) for name, value in weights.items()}
    load(model, {name: value.to(model.dtype) for name, value in weights.items()})
    return model


def legacy_config(
    state_dict: Mapping[str, Tensor], settings: Mapping[str, object], pad_token: int | None = None
) -> ModelConfig:
    """Our configuration of a `HookedTransformer`'s.

    Args:
        state_dict: Tells whether the unembedding's bias, which it always has, is in use.
        settings: Its configuration.
        pad_token: As for `from_transformer_lens`.

    Raises:
        UnsupportedError: If settings have no counterpart, naming all of them.
        ConfigError: If a setting is missing.
    """
    for name in NEEDED:
        if settings.get(name) is None:
            raise ConfigError(f"the settings of a HookedTransformer need {name}")
    reasons = [
        f"{name}={settings[name]!r}: only {value!r} has a counterpart"
        for name, value in ONLY.items()
        if settings.get(name, value) not in (value, None)
    ]
    sizes = {name: _positive(settings.get(name)) for name in _SIZES}
    d_head = int(sizes["d_head"] or sizes["d_model"] // sizes["n_heads"])
    mlp = not settings.get("attn_only", False)
    bias = state_dict.get("unembed.b_U")
    ours = {
        **{name: sizes[name] for name in NEEDED},
        "d_head": d_head,
        "n_kv_heads": sizes["n_key_value_heads"] or None,
        "d_mlp": (sizes["d_mlp"] or 4 * sizes["d_model"]) if mlp else 0,
        "d_vocab_out": sizes["d_vocab_out"] or sizes["d_vocab"],
        "positions": _named("positional_embedding_type", POSITIONS, settings, "standard", reasons),
        "normalization": _named("normalization_type", NORMS, settings, "LN", reasons),
        "norm_eps": settings.get("eps", 1e-5),
        "causal": settings.get("attention_dir", "causal") == "causal",
        "unembed_bias": bias is not None and bool(bias.any()),
        "act_fn": _named("act_fn", _ACTIVATIONS, settings, "relu", reasons) if mlp else "relu",
        "gated_mlp": bool(settings.get("gated_mlp")),
        "parallel_blocks": bool(settings.get("parallel_attn_mlp")),
        "qk_norm": bool(settings.get("use_qk_norm")),
        "attn_scale": _scale(settings, d_head),
        "pad_token": pad_token,
        **(_rotary(settings, d_head) if settings.get("positional_embedding_type") == "rotary" else {}),
    }
    refuse_if(reasons, "HookedTransformer")
    return ModelConfig.of(ours)


def _from_bridge(bridge: Any, pad_token: int | None) -> Transformer:
    """A bridge has one list of weights whatever stands behind it; maps of GPT-2 lie the other way round."""
    original = getattr(bridge, "original_model", None)
    kind, native = type(original).__name__, type(original).__name__ == "NativeModel"
    if original is None or not (native or kind in MODEL_CLASSES):
        raise UnsupportedError(f"no Transformer for a {type(bridge).__name__} over a {kind}")
    weights = bridge.state_dict()
    bias = weights.get("unembed.bias")
    if native:
        config = legacy_config({"unembed.b_U": bias}, vars(bridge.cfg), pad_token)
    else:
        config = hf_config(original).change(pad_token=pad_token, unembed_bias=bool(bias is not None and bias.any()))
    halves = not (native and bridge.cfg.rotary_adjacent_pairs)
    table = BRIDGE_GPT2 if kind == "GPT2LMHeadModel" else BRIDGE
    with evaluating(bridge), torch.no_grad():
        logits = None if pad_token is not None else bridge  # its mask is somebody's hook, and not here
        return from_weights(weights, config, table, rotary_halves=halves, logits=logits)


def _plain(settings: object) -> Mapping[str, object]:
    """A configuration as plain data."""
    if isinstance(settings, Mapping):
        return settings
    to_dict = getattr(settings, "to_dict", None)
    return to_dict() if to_dict is not None else vars(settings)


def _named(
    name: str, known: Mapping[str | None, str], settings: Mapping[str, object], default: str, reasons: list[str]
) -> str:
    value = settings.get(name, default)
    if isinstance(value, str | None) and value in known:
        return known[value]
    reasons.append(f"{name}={value!r}.{suggest(str(value), map(str, known))}")
    return next(iter(known.values()))


def _scale(settings: Mapping[str, object], d_head: int) -> float:
    """Theirs divides scores by a number, by sqrt(d_head) unless it is given; ours multiplies what sqrt(d_head) left."""
    if not settings.get("use_attn_scale", True):
        return math.sqrt(d_head)
    divisor = _positive(settings.get("attn_scale"))
    return math.sqrt(d_head) / divisor if divisor else 1.0


def _rotary(settings: Mapping[str, object], d_head: int) -> dict[str, object]:
    """Rotary settings; theirs scales by parts as Llama 3.1 does, or not at all."""
    rotated = _positive(settings.get("rotary_dim"))
    rotary: dict[str, object] = {"rotary_base": settings.get("rotary_base", 10_000.0)}
    rotary |= {"rotary_dim": int(rotated)} if rotated and rotated != d_head else {}
    if not settings.get("use_NTK_by_parts_rope"):
        return rotary
    return rotary | {
        "rotary_scaling": "llama3",
        "rotary_factor": settings.get("NTK_by_parts_factor", 8.0),
        "rotary_low": settings.get("NTK_by_parts_low_freq_factor", 1.0),
        "rotary_high": settings.get("NTK_by_parts_high_freq_factor", 4.0),
        "rotary_ctx": settings.get("NTK_original_ctx_len", 8192),
    }


def _gate_bias_moved(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Theirs adds `b_in` after the gate: what it writes is constant, and so a part of our `b_out`."""
    moved = dict(weights)
    for at in (f"blocks.{layer}.mlp" for layer in range(config.n_layers)):
        if f"{at}.b_in" not in weights:
            continue
        bias = weights[f"{at}.b_in"]
        moved[f"{at}.b_out"] = weights[f"{at}.b_out"] + bias @ weights[f"{at}.W_out"]
        moved |= {f"{at}.{name}": torch.zeros_like(bias) for name in ("b_in", "b_gate")}
    return moved


def _positive(value: object) -> int | float:
    """A number above zero, or 0 where theirs says None or -1 for the default."""
    return value if isinstance(value, int | float) and value > 0 else 0


def _is_norm(name: str) -> bool:
    return name.startswith("ln_final.") or any(f".{part}." in name for part in ("ln1", "ln2", "mlp.ln"))
