"""The settings of a small transformer, checked once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mechinterp.core import Graph, Settings

Size = Annotated[int, Field(ge=1)]
_LAYER_BYTES = 2**15
"""Memory of a layer's modules and hook points, whatever its width."""


class ModelConfig(Settings):
    """Architecture of a `Transformer`; immutable.

    Defaults (learned positions, LN, attention biases, attention only) can be expressed by TransformerLens's native
    bridge too.

    Raises:
        ConfigError: If a setting is unknown, out of range, or does not fit another.

    >>> ModelConfig(n_layers=2, n_heads=4, d_model=64, d_vocab=64, n_ctx=64).d_head
    16
    """

    n_layers: Size = Field(description="layers")
    n_heads: Size = Field(description="attention heads per layer")
    n_kv_heads: Size | None = Field(default=None, description="keys and values per layer, shared by heads (n_heads)")
    d_model: Size = Field(description="width of the residual stream")
    d_head: Size = Field(default=None, validate_default=False, description="width of a head (d_model / n_heads)")  # type: ignore[assignment]
    d_mlp: Annotated[int, Field(ge=0)] = Field(default=0, description="neurons per MLP; 0 is attention only")
    n_ctx: Size = Field(description="longest sequence")
    inputs: Literal["tokens", "vectors"] = Field(default="tokens", description="what goes in")
    outputs: Literal["logits", "values"] = Field(default="logits", description="what comes out")
    d_vocab: Size | None = Field(default=None, description="tokens of the vocabulary")
    d_vocab_out: Size | None = Field(default=None, description="output tokens (d_vocab)")
    d_in: Size | None = Field(default=None, description="features of an input vector")
    d_out: Size | None = Field(default=None, description="features of an output value")
    positions: Literal["learned", "rotary", "shortformer", "none"] = Field(default="learned", description="positions")
    embedding: Literal["learned", "fixed"] = Field(
        default="learned",
        description="fixed: inputs enter as they are and positions one-hot, side by side, and neither is trained",
    )
    rotary_base: Annotated[float, Field(gt=1)] = Field(default=10_000.0, description="longest rotary wavelength / 2 pi")
    rotary_dim: Size | None = Field(default=None, description="features of a head that rotate (d_head)")
    rotary_scaling: Literal["default", "linear", "llama3"] = Field(
        default="default",
        description="linear: all angles divided by rotary_factor; llama3: those of long wavelengths alone",
    )
    rotary_factor: Annotated[float, Field(ge=1)] = Field(default=1.0, description="by what scaling divides angles")
    rotary_low: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="llama3: waves that fit into rotary_ctx fewer times than this are divided in full"
    )
    rotary_high: Annotated[float, Field(gt=0)] = Field(
        default=4.0, description="llama3: waves that fit into rotary_ctx more times than this stay"
    )
    rotary_ctx: Size = Field(default=8192, description="llama3: the longest sequence before scaling")
    normalization: Literal["LN", "RMS", "none"] = Field(default="LN", description="normalisation")
    norm_eps: Annotated[float, Field(gt=0)] = Field(default=1e-5, description="added to the variance by norms")
    attention: Literal["softmax", "linear", "relu", "uniform"] = Field(
        default="softmax", description="from scores to weights; linear and relu weights need not sum to 1"
    )
    causal: bool = Field(default=True, description="whether a position sees only itself and earlier ones")
    pad_token: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="token that fills up short sequences: no query sees it (none)"
    )
    smeared_keys: bool = Field(
        default=False, description="each head mixes a key with the one before, in a proportion that it learns"
    )
    qk_norm: bool = Field(default=False, description="RMS normalisation of each query and key")
    attn_bias: bool = Field(default=True, description="biases in attention")
    attn_out_bias: bool = Field(default=True, description="whether attn_bias adds one to the output too")
    mlp_bias: bool = Field(default=True, description="biases in MLPs")
    gated_mlp: bool = Field(default=False, description="MLPs multiply their neurons with a linear map of the input")
    parallel_blocks: bool = Field(
        default=False, description="a layer's MLP reads what its heads read, and not what they write"
    )
    tied_embeddings: bool = Field(default=False, description="the unembedding is the embedding's transpose")
    unembed_bias: bool = Field(default=False, description="bias of the unembedding")
    readout_layers: Annotated[int, Field(ge=0)] = Field(
        default=0, description="hidden layers, as wide as d_model, between the stream and the unembedding"
    )
    act_fn: Literal["relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"] = Field(
        default="relu", description="activation of MLPs and readout"
    )
    attn_scale: Annotated[float, Field(gt=0)] = Field(default=1.0, description="factor on q.k / sqrt(d_head)")
    init_scale: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="factor on initial weights N(0, 1/fan_in)"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("d_head") is None:
            d_model, n_heads = data.get("d_model"), data.get("n_heads")
            if isinstance(d_model, int) and isinstance(n_heads, int) and n_heads > 0:
                if d_model % n_heads:
                    raise ValueError(f"d_model={d_model} is no multiple of n_heads={n_heads}: give d_head")
                data = {**data, "d_head": d_model // n_heads}
        return data

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        needs = "d_vocab" if self.inputs == "tokens" else "d_in"
        if getattr(self, needs) is None:
            raise ValueError(f"inputs='{self.inputs}' needs {needs}")
        if self.outputs == "values" and self.d_out is None:
            raise ValueError("outputs='values' needs d_out")
        if self.outputs == "logits" and self.d_vocab is None and self.d_vocab_out is None:
            raise ValueError("outputs='logits' needs d_vocab_out (or d_vocab)")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is no multiple of n_kv_heads={self.n_kv_heads}")
        if self.positions == "rotary" and (self.rotated % 2 or self.rotated > self.d_head):
            name = "d_head" if self.rotary_dim is None else f"rotary_dim of at most d_head={self.d_head}"
            raise ValueError(f"rotary positions need an even {name}, got {self.rotated}")
        if self.rotary_scaling == "llama3" and self.rotary_low >= self.rotary_high:
            raise ValueError(f"rotary_low={self.rotary_low} must be below rotary_high={self.rotary_high}")
        if self.pad_token is not None and (self.inputs != "tokens" or self.pad_token >= self.features_in):
            raise ValueError(f"pad_token={self.pad_token} is none of the {self.d_vocab} tokens that the model reads")
        if self.readout_layers and self.act_fn == "solu_ln":
            raise ValueError("act_fn='solu_ln' belongs to MLPs: a readout takes 'solu'")
        if self.tied_embeddings and (self.embedding == "fixed" or self.features_in != self.features_out):
            raise ValueError("tied_embeddings need a trained embedding, and as many features out as in")
        needed = self.features_in + (self.n_ctx if self.position_table else 0)
        if self.embedding == "fixed" and self.d_model < needed:
            side = f"d_model={self.d_model} must be {needed} or more"
            raise ValueError(f"embedding='fixed' puts inputs and positions side by side: {side}")
        return self

    @property
    def features_in(self) -> int:
        """Rows of the embedding."""
        return (self.d_vocab if self.inputs == "tokens" else self.d_in) or 0  # `_fits` saw to it that there is one

    @property
    def features_out(self) -> int:
        """Columns of the unembedding."""
        return (self.d_out if self.outputs == "values" else self.d_vocab_out or self.d_vocab) or 0

    @property
    def position_table(self) -> bool:
        """Whether positions are vectors `W_pos`."""
        return self.positions in ("learned", "shortformer")

    @property
    def position_source(self) -> bool:
        """Whether positions are added to the residual stream."""
        return self.positions == "learned"

    @property
    def kv_heads(self) -> int:
        """Keys and values per layer."""
        return self.n_kv_heads or self.n_heads

    @property
    def shared(self) -> int:
        """Heads that share one key and one value."""
        return self.n_heads // self.kv_heads

    @property
    def rotated(self) -> int:
        """Features of a head that rotary positions turn: the first ones, adjacent two together."""
        return self.rotary_dim or self.d_head

    @property
    def out_bias(self) -> bool:
        """Whether a layer's attention writes a bias."""
        return self.attn_bias and self.attn_out_bias

    @property
    def n_weights(self) -> int:
        """Entries of all weight matrices; biases and norms are few beside them."""
        layer = 2 * (self.n_heads + self.kv_heads) * self.d_head + (2 + self.gated_mlp) * self.d_mlp
        ends = self.features_in + self.readout_layers * self.d_model
        ends += 0 if self.tied_embeddings else self.features_out
        return self.d_model * (self.n_layers * layer + ends + self.n_ctx * self.position_table)

    @property
    def memory(self) -> int:
        """Bytes that a float32 model takes, roughly, known before it is built."""
        rotary = 8 * self.n_ctx * self.rotated if self.positions == "rotary" else 0
        return 4 * self.n_weights + self.n_layers * (rotary + _LAYER_BYTES)

    @property
    def row_width(self) -> int:
        """Numbers that a row holds at once while a layer runs: the stream and its norm, q, k, v, z and the MLP."""
        return 4 * self.d_model + 5 * self.n_heads * self.d_head + (2 + self.gated_mlp) * self.d_mlp

    @property
    def run_width(self) -> int:
        """Numbers that a row leaves behind in a recorded run: the stream, q, k, v, z and neurons of every layer."""
        layer = 2 * self.d_model + 2 * (self.n_heads + self.kv_heads) * self.d_head + self.d_mlp
        return self.n_layers * layer + 3 * self.d_model

    def graph(self, inputs: str = "merged") -> Graph:
        """All sources, readers and edges of this architecture."""
        mlp = self.d_mlp > 0
        return Graph(
            self.n_layers, self.n_heads, mlp, self.position_source, inputs, self.shared, mlp and self.parallel_blocks
        )

    def change(self, **settings: object) -> ModelConfig:
        """A copy with some settings changed; `d_head` follows `d_model` and `n_heads` unless it is given."""
        data = self.model_dump()
        if {"d_model", "n_heads"} & set(settings) and data["d_head"] * data["n_heads"] == data["d_model"]:
            data.pop("d_head")
        return ModelConfig.model_validate({**data, **settings})
