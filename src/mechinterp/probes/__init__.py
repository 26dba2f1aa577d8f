"""Whether a hidden variable can be decoded linearly, what that is worth, and whether the model uses it."""

from mechinterp.probes.closed_form import ridge_scores
from mechinterp.probes.decode import PROBES, probe
from mechinterp.probes.erase import Eraser, leace

__all__ = ["PROBES", "Eraser", "leace", "probe", "ridge_scores"]
