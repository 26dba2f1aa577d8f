"""Small transformers: configuration, model, hand-made ground truth, TransformerLens both ways."""

from mechinterp.models.bridge import to_bridge
from mechinterp.models.config import ModelConfig
from mechinterp.models.handmade import HandMade, induction_model
from mechinterp.models.handmade_regression import GradientStep, gradient_step, gradient_step_model
from mechinterp.models.legacy import from_legacy
from mechinterp.models.transformer import Transformer

__all__ = [
    "GradientStep",
    "HandMade",
    "ModelConfig",
    "Transformer",
    "from_legacy",
    "gradient_step",
    "gradient_step_model",
    "induction_model",
    "to_bridge",
]
