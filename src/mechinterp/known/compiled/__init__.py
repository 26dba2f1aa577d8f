"""Programs compiled to weights: models whose circuit is known from the compiler's graph."""

from mechinterp.known.compiled.load import CompiledModel, compiled_model, compiled_names
from mechinterp.known.compiled.programs import Program

__all__ = ["CompiledModel", "Program", "compiled_model", "compiled_names"]
