"""The one engine: run, record, edit, resume from the middle, run a circuit."""

from mechinterp.interventions.activations import Activations, activations, source_values
from mechinterp.interventions.circuits import graph_of, score_circuits
from mechinterp.interventions.gradients import gradients
from mechinterp.interventions.hooks import check_unhooked, hook_name, quiet, record, run_edited
from mechinterp.interventions.reference import Ablation, Direction, ablated, check_ablation
from mechinterp.interventions.resume import Resumer, take
from mechinterp.interventions.scoring import Scorer, on_model, score_runs

__all__ = [
    "Ablation",
    "Activations",
    "Direction",
    "Resumer",
    "Scorer",
    "ablated",
    "activations",
    "check_ablation",
    "check_unhooked",
    "gradients",
    "graph_of",
    "hook_name",
    "on_model",
    "quiet",
    "record",
    "run_edited",
    "score_circuits",
    "score_runs",
    "source_values",
    "take",
]
