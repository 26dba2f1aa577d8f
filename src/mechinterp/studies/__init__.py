"""The story of a Run: its heads, their dates, its circuit, what probes read; and twins of Runs, one changed."""

from mechinterp.studies.learning import loss_rows
from mechinterp.studies.milestones import Milestone
from mechinterp.studies.study import Study, study
from mechinterp.studies.twins import Twins, TwinsFile, twins

__all__ = ["Milestone", "Study", "Twins", "TwinsFile", "loss_rows", "study", "twins"]
