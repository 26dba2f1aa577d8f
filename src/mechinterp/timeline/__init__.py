"""Measures at every checkpoint of a Run, and the store that keeps them."""

from mechinterp.timeline.store import Files, Memory, Store
from mechinterp.timeline.tracing import Traceable, trace

__all__ = ["Files", "Memory", "Store", "Traceable", "trace"]
