"""Measures: named, parametrised functions (model, task, seed) -> labelled numbers, yours among them."""

from mechinterp.measures import (
    attention,
    behaviour,
    causal,
    circuits,
    estimates,
    modular,
    order_parameters,
    predictors,
    regression,
    structure,
)
from mechinterp.measures.registry import Measure, as_measure, measure, names, register_measure

__all__ = [
    "Measure",
    "as_measure",
    "attention",
    "behaviour",
    "causal",
    "circuits",
    "estimates",
    "measure",
    "modular",
    "names",
    "order_parameters",
    "predictors",
    "register_measure",
    "regression",
    "structure",
]
