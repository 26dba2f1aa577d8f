"""When things appear: timelines, onsets, first passages, change points, and statistics over seeds."""

from mechinterp.emergence.changes import ChangePoints, change_points
from mechinterp.emergence.mirage import MirageCheck, mirage_check
from mechinterp.emergence.onset import Onset, onset
from mechinterp.emergence.passages import Ordering, first_passage, which_first
from mechinterp.emergence.statistics import OrderTest, SeedInterval, holm, kaplan_meier, order_test, seed_interval
from mechinterp.emergence.study import Study, study
from mechinterp.emergence.timeline import trace

__all__ = [
    "ChangePoints",
    "MirageCheck",
    "Onset",
    "OrderTest",
    "Ordering",
    "SeedInterval",
    "Study",
    "change_points",
    "first_passage",
    "holm",
    "kaplan_meier",
    "mirage_check",
    "onset",
    "order_test",
    "seed_interval",
    "study",
    "trace",
    "which_first",
]
