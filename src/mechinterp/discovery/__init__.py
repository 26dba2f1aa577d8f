"""Search for circuits: ACDC, and the edges of largest exact effect."""

from mechinterp.discovery.acdc import acdc, edge_order
from mechinterp.discovery.discover import METHODS, discover
from mechinterp.discovery.top_k import top_k

__all__ = ["METHODS", "acdc", "discover", "edge_order", "top_k"]
