"""Exact effects of nodes, edges and paths, and gradient estimates of them."""

from mechinterp.core import recovery
from mechinterp.patching.edges import patch_edges
from mechinterp.patching.nodes import patch_nodes

__all__ = ["patch_edges", "patch_nodes", "recovery"]
