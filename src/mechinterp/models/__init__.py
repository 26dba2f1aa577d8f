"""Small transformers: configuration, model, TransformerLens both ways."""

from mechinterp.models.bridge import to_bridge
from mechinterp.models.config import ModelConfig
from mechinterp.models.legacy import from_legacy
from mechinterp.models.transformer import Transformer

__all__ = ["ModelConfig", "Transformer", "from_legacy", "to_bridge"]
