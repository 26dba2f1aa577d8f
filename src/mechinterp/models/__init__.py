"""Small transformers: configuration, model, hand-made ground truth, TransformerLens both ways."""

from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

__all__ = ["ModelConfig", "Transformer"]
