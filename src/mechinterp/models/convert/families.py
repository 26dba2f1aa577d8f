"""Where each family keeps its weights, and how their axes lie: tables for `from_weights`."""

from __future__ import annotations

from mechinterp.models.convert.tables import Row

_HEADS_IN = "(head d_head) d_model -> head d_model d_head"
_HEADS = "(head d_head) -> head d_head"
_HEADS_OUT = "d_model (head d_head) -> head d_head d_model"
_SWAPPED = "out into -> into out"


def _norm(ours: str, theirs: str) -> dict[str, Row]:
    return {f"{ours}.w": f"{theirs}.weight", f"{ours}.b": f"{theirs}.bias"}


def _linear(ours: str, theirs: str, pattern: str = _SWAPPED) -> dict[str, Row]:
    """`W_` and `b_` of a linear map."""
    place, _, name = ours.rpartition(".")
    return {f"{place}.W_{name}": (f"{theirs}.weight", pattern), f"{place}.b_{name}": f"{theirs}.bias"}


_AT = "blocks.{layer}"
_H = "transformer.h.{layer}"
GPT2: dict[str, Row] = {
    "embed.W_E": "transformer.wte.weight",
    "pos_embed.W_pos": "transformer.wpe.weight",
    **_norm(f"{_AT}.ln1", f"{_H}.ln_1"),
    f"{_AT}.attn.W_Q W_K W_V": (f"{_H}.attn.c_attn.weight", "d_model (kind head d_head) -> kind head d_model d_head"),
    f"{_AT}.attn.b_Q b_K b_V": (f"{_H}.attn.c_attn.bias", "(kind head d_head) -> kind head d_head"),
    f"{_AT}.attn.W_O": (f"{_H}.attn.c_proj.weight", "(head d_head) d_model -> head d_head d_model"),
    f"{_AT}.attn.b_O": f"{_H}.attn.c_proj.bias",
    **_norm(f"{_AT}.ln2", f"{_H}.ln_2"),
    f"{_AT}.mlp.W_in": f"{_H}.mlp.c_fc.weight",
    f"{_AT}.mlp.b_in": f"{_H}.mlp.c_fc.bias",
    f"{_AT}.mlp.W_out": f"{_H}.mlp.c_proj.weight",
    f"{_AT}.mlp.b_out": f"{_H}.mlp.c_proj.bias",
    **_norm("ln_final", "transformer.ln_f"),
    "unembed.W_U": ("lm_head.weight", _SWAPPED),
}
"""GPT-2: its maps are stored as inputs x outputs."""

_L = "gpt_neox.layers.{layer}"
_QKV = f"{_L}.attention.query_key_value"
GPT_NEOX: dict[str, Row] = {
    "embed.W_E": "gpt_neox.embed_in.weight",
    **_norm(f"{_AT}.ln1", f"{_L}.input_layernorm"),
    f"{_AT}.attn.W_Q W_K W_V": (f"{_QKV}.weight", "(head kind d_head) d_model -> kind head d_model d_head"),
    f"{_AT}.attn.b_Q b_K b_V": (f"{_QKV}.bias", "(head kind d_head) -> kind head d_head"),
    **_linear(f"{_AT}.attn.O", f"{_L}.attention.dense", _HEADS_OUT),
    **_norm(f"{_AT}.ln2", f"{_L}.post_attention_layernorm"),
    **_linear(f"{_AT}.mlp.in", f"{_L}.mlp.dense_h_to_4h"),
    **_linear(f"{_AT}.mlp.out", f"{_L}.mlp.dense_4h_to_h"),
    **_norm("ln_final", "gpt_neox.final_layer_norm"),
    "unembed.W_U": ("lm_head.weight", _SWAPPED),
}
"""GPT-NeoX and Pythia: q, k and v of a head lie side by side."""

_M = "model.layers.{layer}"


def _attention(theirs: str) -> dict[str, Row]:
    """Queries, keys, values and output as four linear maps."""
    rows: dict[str, Row] = {}
    for kind in "QKV":
        at = f"{theirs}.{kind.lower()}_proj"
        rows |= {f"{_AT}.attn.W_{kind}": (f"{at}.weight", _HEADS_IN), f"{_AT}.attn.b_{kind}": (f"{at}.bias", _HEADS)}
    return rows | _linear(f"{_AT}.attn.O", f"{theirs}.o_proj", _HEADS_OUT)


LLAMA: dict[str, Row] = {
    "embed.W_E": "model.embed_tokens.weight",
    f"{_AT}.ln1.w": f"{_M}.input_layernorm.weight",
    **_attention(f"{_M}.self_attn"),
    f"{_AT}.attn.q_norm.w": f"{_M}.self_attn.q_norm.weight",
    f"{_AT}.attn.k_norm.w": f"{_M}.self_attn.k_norm.weight",
    f"{_AT}.ln2.w": f"{_M}.post_attention_layernorm.weight",
    **_linear(f"{_AT}.mlp.gate", f"{_M}.mlp.gate_proj"),
    **_linear(f"{_AT}.mlp.in", f"{_M}.mlp.up_proj"),
    **_linear(f"{_AT}.mlp.out", f"{_M}.mlp.down_proj"),
    "ln_final.w": "model.norm.weight",
    "unembed.W_U": ("lm_head.weight", _SWAPPED),
}
"""Llama, Mistral, Qwen2 and Qwen3."""

BRIDGE: dict[str, Row] = {
    "embed.W_E": "embed.weight",
    "pos_embed.W_pos": "pos_embed.weight",
    **_norm(f"{_AT}.ln1", f"{_AT}.ln1"),
    **{f"{_AT}.attn.W_{kind}": (f"{_AT}.attn.{kind.lower()}.weight", _HEADS_IN) for kind in "QKV"},
    **{f"{_AT}.attn.b_{kind}": (f"{_AT}.attn.{kind.lower()}.bias", _HEADS) for kind in "QKV"},
    **_linear(f"{_AT}.attn.O", f"{_AT}.attn.o", _HEADS_OUT),
    f"{_AT}.attn.q_norm.w": f"{_AT}.attn.q_norm.weight",
    f"{_AT}.attn.k_norm.w": f"{_AT}.attn.k_norm.weight",
    **_norm(f"{_AT}.ln2", f"{_AT}.ln2"),
    **_linear(f"{_AT}.mlp.gate", f"{_AT}.mlp.gate"),
    **_linear(f"{_AT}.mlp.in", f"{_AT}.mlp.in"),
    **_linear(f"{_AT}.mlp.out", f"{_AT}.mlp.out"),
    **_norm("ln_final", "ln_final"),
    **_linear("unembed.U", "unembed"),
}
"""A `TransformerBridge`: one list of names for all families."""
BRIDGE_GPT2: dict[str, Row] = {
    **BRIDGE,
    f"{_AT}.attn.W_O": (f"{_AT}.attn.o.weight", "(head d_head) d_model -> head d_head d_model"),
    f"{_AT}.mlp.W_in": f"{_AT}.mlp.in.weight",
    f"{_AT}.mlp.W_out": f"{_AT}.mlp.out.weight",
}
"""A bridge over GPT-2, whose maps are stored as inputs x outputs (but for q, k and v, which the bridge takes apart)."""
