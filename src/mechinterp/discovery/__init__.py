"""Search for circuits: ACDC, and the edges of largest exact effect."""

from mechinterp.discovery.acdc import edge_order
from mechinterp.discovery.discover import METHODS, discover

__all__ = ["METHODS", "discover", "edge_order"]
