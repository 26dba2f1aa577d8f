"""Measures at every checkpoint of a Run, and the store that keeps them."""

from mechinterp.timeline.adaptive import Curves, adaptive_steps
from mechinterp.timeline.camera import Traceable
from mechinterp.timeline.growing import Measuring, train
from mechinterp.timeline.store import Files, Memory, Store
from mechinterp.timeline.tracing import trace

__all__ = ["Curves", "Files", "Measuring", "Memory", "Store", "Traceable", "adaptive_steps", "trace", "train"]
