"""Whether a hidden variable can be decoded linearly, what that is worth, and whether the model uses it."""

from mechinterp.probes.closed_form import ridge_scores
from mechinterp.probes.decode import PROBES, probe
from mechinterp.probes.erase import Eraser, leace
from mechinterp.probes.over_time import read_and_erase

__all__ = ["PROBES", "Eraser", "leace", "probe", "read_and_erase", "ridge_scores"]
