"""The story of a Run: its heads, their dates, its circuit, what probes read, each beside its null."""

from mechinterp.studies.learning import loss_rows
from mechinterp.studies.study import Study, study

__all__ = ["Study", "loss_rows", "study"]
