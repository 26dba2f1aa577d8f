"""What patterns and weights suggest: attention scores, QK and OV circuits, composition, logit attribution."""

from mechinterp.attribution.composition import composition
from mechinterp.attribution.fourier import (
    embedding_spectrum,
    excluded_logits,
    gradient_symmetricity,
    key_frequencies,
    neuron_spectrum,
    restricted_embedding,
    restricted_logits,
    sum_spectrum,
)
from mechinterp.attribution.head_scores import (
    duplicate_token_score,
    head_score_chance,
    head_scores,
    induction_score,
    previous_token_score,
)
from mechinterp.attribution.head_types import HEAD_TYPES, best_head, head_types, heads_of_type
from mechinterp.attribution.logits import logit_attribution, logit_lens
from mechinterp.attribution.value_weighted import value_weighted_attention
from mechinterp.attribution.weights import copying_scores, ov_circuit, qk_circuit, qk_effective_rank

__all__ = [
    "HEAD_TYPES",
    "best_head",
    "composition",
    "copying_scores",
    "duplicate_token_score",
    "embedding_spectrum",
    "excluded_logits",
    "gradient_symmetricity",
    "head_score_chance",
    "head_scores",
    "head_types",
    "heads_of_type",
    "induction_score",
    "key_frequencies",
    "logit_attribution",
    "logit_lens",
    "neuron_spectrum",
    "ov_circuit",
    "previous_token_score",
    "qk_circuit",
    "qk_effective_rank",
    "restricted_embedding",
    "restricted_logits",
    "sum_spectrum",
    "value_weighted_attention",
]
