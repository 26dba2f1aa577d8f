"""Models whose circuit is known: written by hand, or compiled from a program."""

from mechinterp.known.catalogue import Blueprint, known_models
from mechinterp.known.compiled import CompiledModel, Program, compiled_model, compiled_names
from mechinterp.known.gates import gate_model
from mechinterp.known.ground_truth import KnownModel, conceal, roughened
from mechinterp.known.induction import induction_model
from mechinterp.known.later_heads import later_head_model
from mechinterp.known.regression import GradientStep, gradient_step, gradient_step_model

__all__ = [
    "Blueprint",
    "CompiledModel",
    "GradientStep",
    "KnownModel",
    "Program",
    "compiled_model",
    "compiled_names",
    "conceal",
    "gate_model",
    "gradient_step",
    "gradient_step_model",
    "induction_model",
    "known_models",
    "later_head_model",
    "roughened",
]
