"""Weights that were saved from TransformerLens's former `HookedTransformer`, in our model.

Names and shapes are the same; what differs is said by the settings: rotary positions on feature halves instead of
adjacent pairs, norms whose weights were folded into what follows, biases that always exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from mechinterp.core import ConfigError, ShapeError, UnsupportedError, suggest
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

NEEDED = ("n_layers", "n_heads", "d_model", "n_ctx", "d_vocab")
_SIZES = (*NEEDED, "d_head", "d_mlp", "d_vocab_out")
BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
_ACTIVATIONS: dict[str | None, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
}
NORMS: dict[str | None, str] = {"LN": "LN", "LNPre": "LN", "RMS": "RMS", "RMSPre": "RMS", None: "none"}
POSITIONS: dict[str | None, str] = {"standard": "learned", "rotary": "rotary", "shortformer": "shortformer"}
# Settings that change the function, and the only value with which our model is the same function.
ONLY = {
    "gated_mlp": False, "parallel_attn_mlp": False, "scale_attn_by_inverse_layer_idx": False, "use_local_attn": False,
    "final_rms": False, "post_embedding_ln": False, "use_normalization_before_and_after": False, "num_experts": None,
    "use_qk_norm": False, "attn_scores_soft_cap": -1.0, "output_logits_soft_cap": -1.0, "rope_scaling": None,
    "use_NTK_by_parts_rope": False, "relative_attention_max_distance": None,
}  # fmt: skip


def from_legacy(state_dict: Mapping[str, Tensor], settings: Mapping[str, object]) -> Transformer:
    """A `Transformer` with the weights of a `HookedTransformer`.

    Args:
        state_dict: What its `state_dict()` gave; masks and rotary tables are left out.
        settings: Its configuration as plain data (`cfg.to_dict()`).

    Returns:
        The same function, in the weights' type. Queries and keys of rotary models on feature halves come with their
        features reordered, which changes no attention score.

    Raises:
        UnsupportedError: If a setting has no counterpart, naming it.
        ConfigError: If a setting is missing.
        ShapeError: If weights are missing, left over or of another shape than the settings say.
    """
    config = legacy_config(state_dict, settings)
    model = Transformer(config)
    weights = {name: value for name, value in state_dict.items() if name.rsplit(".", 1)[-1] not in BUFFERS}
    if not config.unembed_bias:
        weights.pop("unembed.b_U", None)
    if str(settings.get("normalization_type")).endswith("Pre"):
        # A norm without weights is the norm with weight 1 and bias 0, as a new model has it.
        norms = {name: value for name, value in model.state_dict().items() if _is_norm(name)}
        weights = {**norms, **weights}
    if config.positions == "rotary" and not settings.get("rotary_adjacent_pairs", False):
        weights = {name: _to_pairs(name, value) for name, value in weights.items()}
    _check(weights, model)
    dtype = weights["embed.W_E"].dtype
    model = model.to(dtype)
    model.load_state_dict({name: value.detach().to(dtype) for name, value in weights.items()}, strict=True)
    return model.eval()


def legacy_config(state_dict: Mapping[str, Tensor], settings: Mapping[str, object]) -> ModelConfig:
    """Our configuration of a `HookedTransformer`'s.

    Args:
        state_dict: Tells whether the unembedding's bias, which it always has, is in use.
        settings: Its configuration.

    Raises:
        UnsupportedError: If a setting has no counterpart, naming it.
        ConfigError: If a setting is missing.
    """
    for name in NEEDED:
        if settings.get(name) is None:
            raise ConfigError(f"the settings of a HookedTransformer need {name}")
    for name, value in ONLY.items():
        if settings.get(name, value) not in (value, None):
            raise UnsupportedError(f"no Transformer for {name}={settings[name]!r}: only {value!r} has a counterpart")
    sizes = {name: _positive(settings.get(name)) for name in _SIZES}
    heads, d_model = sizes["n_heads"], sizes["d_model"]
    d_head = int(sizes["d_head"] or d_model // heads)
    same = {
        "n_key_value_heads": (heads, "each head has its own keys and values"),
        "rotary_dim": (d_head, "all features of a head rotate"),
    }
    for name, (value, reason) in same.items():
        if settings.get(name) not in (None, value) and (name != "rotary_dim" or _rotates(settings)):
            raise UnsupportedError(f"no Transformer for {name}={settings[name]!r}: {reason}, as with {value!r}")
    mlp = not settings.get("attn_only", False)
    bias = state_dict.get("unembed.b_U")
    return ModelConfig.model_validate(
        {
            **{name: sizes[name] for name in NEEDED},
            "d_head": d_head,
            "d_mlp": (sizes["d_mlp"] or 4 * d_model) if mlp else 0,
            "d_vocab_out": sizes["d_vocab_out"] or sizes["d_vocab"],
            "positions": _named("positional_embedding_type", POSITIONS, settings, "standard"),
            "rotary_base": settings.get("rotary_base", 10_000.0),
            "norm_eps": settings.get("eps", 1e-5),
            "normalization": _named("normalization_type", NORMS, settings, "LN"),
            "causal": settings.get("attention_dir", "causal") == "causal",
            "unembed_bias": bias is not None and bool(bias.any()),
            "act_fn": _named("act_fn", _ACTIVATIONS, settings, "relu") if mlp else "relu",
            "attn_scale": _scale(settings, d_head),
        }
    )


def _named(name: str, known: Mapping[str | None, str], settings: Mapping[str, object], default: str) -> str:
    value = settings.get(name, default)
    if not isinstance(value, str | None) or value not in known:
        raise UnsupportedError(f"no Transformer for {name}={value!r}.{suggest(str(value), map(str, known))}")
    return known[value]


def _scale(settings: Mapping[str, object], d_head: int) -> float:
    """Theirs divides scores by a number, by sqrt(d_head) unless it is given; ours multiplies what sqrt(d_head) left."""
    if not settings.get("use_attn_scale", True):
        return math.sqrt(d_head)
    divisor = _positive(settings.get("attn_scale"))
    return math.sqrt(d_head) / divisor if divisor else 1.0


def _positive(value: object) -> int | float:
    """A number above zero, or 0 where theirs says None or -1 for the default."""
    return value if isinstance(value, int | float) and value > 0 else 0


def _rotates(settings: Mapping[str, object]) -> bool:
    return settings.get("positional_embedding_type") == "rotary"


def _is_norm(name: str) -> bool:
    return name.startswith("ln_final.") or ".ln1." in name or ".ln2." in name


def _to_pairs(name: str, value: Tensor) -> Tensor:
    """Queries' and keys' features so reordered that those which rotate together stand side by side.

    Theirs rotates feature i with feature i + d_head / 2 at frequency i; ours rotates 2i with 2i + 1 at frequency i.
    """
    if name.rsplit(".", 1)[-1] not in ("W_Q", "W_K", "b_Q", "b_K"):
        return value
    return rearrange(value, "... (half pair) -> ... (pair half)", half=2)


def _check(weights: Mapping[str, Tensor], model: Transformer) -> None:
    expected = model.state_dict()
    for name in expected:
        if name not in weights:
            raise ShapeError(f"the weights lack '{name}', which the settings ask for")
    for name, value in weights.items():
        if name not in expected:
            raise ShapeError(f"the settings leave no place for the weights '{name}' {list(value.shape)}")
        if value.shape != expected[name].shape:
            raise ShapeError(f"'{name}' is {list(value.shape)}, and the settings say {list(expected[name].shape)}")
