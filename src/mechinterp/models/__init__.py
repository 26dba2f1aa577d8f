"""Small transformers: configuration, model, known ground truth by hand and compiled, TransformerLens both ways."""

from mechinterp.models.bridge import to_bridge
from mechinterp.models.compiled import CompiledModel, Program, compiled_model, compiled_names
from mechinterp.models.config import ModelConfig
from mechinterp.models.ground_truth import HandMade, conceal
from mechinterp.models.handmade import induction_model
from mechinterp.models.handmade_gates import gate_model
from mechinterp.models.handmade_regression import GradientStep, gradient_step, gradient_step_model
from mechinterp.models.known import Known, known_models
from mechinterp.models.legacy import from_legacy
from mechinterp.models.positions import Positions, take
from mechinterp.models.transformer import Transformer

__all__ = [
    "CompiledModel",
    "GradientStep",
    "HandMade",
    "Known",
    "ModelConfig",
    "Positions",
    "Program",
    "Transformer",
    "compiled_model",
    "compiled_names",
    "conceal",
    "from_legacy",
    "gate_model",
    "gradient_step",
    "gradient_step_model",
    "induction_model",
    "known_models",
    "take",
    "to_bridge",
]
