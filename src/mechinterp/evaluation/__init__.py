"""How good a circuit is: faithfulness, completeness, minimality, curves, tests, agreement, and their nulls."""

from mechinterp.evaluation.ability import Ability, ability
from mechinterp.evaluation.agreement import agreement, match_heads, overlaps, rename_heads
from mechinterp.evaluation.curves import circuit_at, cpr_cmd, curve, fewest_edges
from mechinterp.evaluation.evaluate import FEWEST, evaluate
from mechinterp.evaluation.found import ABILITY, Answer, Condition, Found, found
from mechinterp.evaluation.hypotheses import hypothesis_tests
from mechinterp.evaluation.live import EDGE_STATES, edge_states, live_edges
from mechinterp.evaluation.minimality import minimality
from mechinterp.evaluation.nulls import inflate, random_circuits, rival_circuits
from mechinterp.evaluation.redundancy import RELATIONS, Group, Redundancy, redundancy
from mechinterp.evaluation.truth import (
    edge_auroc,
    edge_average_precision,
    group_auroc,
    mib_auroc,
    pessimistic_auc,
    rates,
)

__all__ = [
    "ABILITY",
    "EDGE_STATES",
    "FEWEST",
    "RELATIONS",
    "Ability",
    "Answer",
    "Condition",
    "Found",
    "Group",
    "Redundancy",
    "ability",
    "agreement",
    "circuit_at",
    "cpr_cmd",
    "curve",
    "edge_auroc",
    "edge_average_precision",
    "edge_states",
    "evaluate",
    "fewest_edges",
    "found",
    "group_auroc",
    "hypothesis_tests",
    "inflate",
    "live_edges",
    "match_heads",
    "mib_auroc",
    "minimality",
    "overlaps",
    "pessimistic_auc",
    "random_circuits",
    "rates",
    "redundancy",
    "rename_heads",
    "rival_circuits",
]
