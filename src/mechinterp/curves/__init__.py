"""Numbers along training in, a verdict out: onsets, first passages and their order, change points, mirage check."""

from mechinterp.curves.changes import ChangePoints, change_points
from mechinterp.curves.mirage import MirageCheck, mirage_check
from mechinterp.curves.onset import Onset, onset
from mechinterp.curves.passages import LASTS, Ordering, first_passage, leads, orders, which_first

__all__ = [
    "LASTS",
    "ChangePoints",
    "MirageCheck",
    "Onset",
    "Ordering",
    "change_points",
    "first_passage",
    "leads",
    "mirage_check",
    "onset",
    "orders",
    "which_first",
]
