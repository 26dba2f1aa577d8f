"""Numbers along training in, a verdict out: onsets, first passages and their order, change points, mirage check."""

from mechinterp.curves.changes import ChangePoints, change_points
from mechinterp.curves.mirage import MirageCheck, mirage_check
from mechinterp.curves.onset import onset
from mechinterp.curves.passages import LASTS, Ordering, first_passage, leads, orders, which_first
from mechinterp.curves.result import Onset, Stage

__all__ = [
    "LASTS",
    "ChangePoints",
    "MirageCheck",
    "Onset",
    "Ordering",
    "Stage",
    "change_points",
    "first_passage",
    "leads",
    "mirage_check",
    "onset",
    "orders",
    "which_first",
]
