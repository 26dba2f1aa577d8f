"""Exact effects of nodes, edges and paths, and gradient estimates of them."""

from mechinterp.core import recovery
from mechinterp.patching.edge_estimates import estimate_edges
from mechinterp.patching.edges import patch_edges
from mechinterp.patching.node_estimates import estimate_nodes, pattern_gradient
from mechinterp.patching.nodes import patch_nodes
from mechinterp.patching.paths import patch_edge_pairs, path_patch

__all__ = [
    "estimate_edges",
    "estimate_nodes",
    "patch_edge_pairs",
    "patch_edges",
    "patch_nodes",
    "path_patch",
    "pattern_gradient",
    "recovery",
]
