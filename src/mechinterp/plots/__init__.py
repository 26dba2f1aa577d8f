"""Figures: labelled arrays in, a plotly figure out. Nothing global is changed; each figure carries its own style."""

from mechinterp.plots.effects import faithfulness_curve as faithfulness_curve
from mechinterp.plots.effects import node_heatmap as node_heatmap
from mechinterp.plots.graph import circuit_graph as circuit_graph
from mechinterp.plots.order_parameters import order_parameters as order_parameters
from mechinterp.plots.probes import probe_bars as probe_bars
from mechinterp.plots.seeds import survival as survival
from mechinterp.plots.seeds import susceptibility as susceptibility
from mechinterp.plots.tables import findings_table as findings_table
from mechinterp.plots.theory import theory as theory
from mechinterp.plots.training import head_scores as head_scores
from mechinterp.plots.training import loss_curve as loss_curve
from mechinterp.plots.twins import twin_curves as twin_curves

__all__ = [
    "circuit_graph",
    "faithfulness_curve",
    "findings_table",
    "head_scores",
    "loss_curve",
    "node_heatmap",
    "order_parameters",
    "probe_bars",
    "survival",
    "susceptibility",
    "theory",
    "twin_curves",
]
