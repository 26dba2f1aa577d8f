"""What patterns and weights suggest: attention scores, QK and OV circuits, composition, logit attribution."""

from mechinterp.attribution.composition import composition
from mechinterp.attribution.patterns import duplicate_token_score, induction_score, previous_token_score
from mechinterp.attribution.weights import copying_scores, ov_circuit, qk_circuit

__all__ = [
    "composition",
    "copying_scores",
    "duplicate_token_score",
    "induction_score",
    "ov_circuit",
    "previous_token_score",
    "qk_circuit",
]
