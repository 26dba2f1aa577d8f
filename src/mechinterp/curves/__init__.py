"""Numbers along training in, a verdict out: onsets, first passages and their order, change points, mirage check."""

from mechinterp.curves.changes import ChangePoints, change_points
from mechinterp.curves.leaders import Leadership, Term, leadership
from mechinterp.curves.mirage import MirageCheck, mirage_check
from mechinterp.curves.onset import onset
from mechinterp.curves.passages import LASTS, Ordering, first_passage, leads, orders, which_first
from mechinterp.curves.result import Onset, Stage
from mechinterp.curves.scan import FALSE_DISCOVERY, dated_effects
from mechinterp.curves.shifts import Shift, paired_shift

__all__ = [
    "FALSE_DISCOVERY",
    "LASTS",
    "ChangePoints",
    "Leadership",
    "MirageCheck",
    "Onset",
    "Ordering",
    "Shift",
    "Stage",
    "Term",
    "change_points",
    "dated_effects",
    "first_passage",
    "leadership",
    "leads",
    "mirage_check",
    "onset",
    "orders",
    "paired_shift",
    "which_first",
]
