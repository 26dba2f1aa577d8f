"""Whether a hidden variable can be decoded linearly, what that is worth, and whether the model uses it."""

from mechinterp.probes.decode import probe
from mechinterp.probes.erase import Eraser, leace

__all__ = ["Eraser", "leace", "probe"]
