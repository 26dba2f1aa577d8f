"""Small transformers: configuration, model, TransformerLens both ways."""

from mechinterp.models.bridge import to_bridge
from mechinterp.models.config import ModelConfig
from mechinterp.models.convert import from_hf, from_transformer_lens, from_weights
from mechinterp.models.positions import Positions, take
from mechinterp.models.transformer import Transformer

__all__ = [
    "ModelConfig",
    "Positions",
    "Transformer",
    "from_hf",
    "from_transformer_lens",
    "from_weights",
    "take",
    "to_bridge",
]
