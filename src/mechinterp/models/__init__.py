"""Small transformers: configuration, model, TransformerLens both ways."""

from mechinterp.models.bridge import to_bridge
from mechinterp.models.config import ModelConfig
from mechinterp.models.legacy import from_legacy
from mechinterp.models.positions import Positions, take
from mechinterp.models.transformer import Transformer

__all__ = ["ModelConfig", "Positions", "Transformer", "from_legacy", "take", "to_bridge"]
