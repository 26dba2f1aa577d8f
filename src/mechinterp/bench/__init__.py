"""Speed, measured in one run against what people use: the training step, patching all heads, all edges."""

from mechinterp.bench.run import NAMES, run

__all__ = ["NAMES", "run"]
