"""The one engine: run, record, edit, resume from the middle, run a circuit."""

from mechinterp.interventions.activations import (
    Activations,
    activations,
    largest_source,
    mean_activations,
    source_steps,
    source_values,
)
from mechinterp.interventions.circuits import graph_of, score_circuits, score_gates
from mechinterp.interventions.gradients import gradients
from mechinterp.interventions.hooks import as_hooked, check_plain, hook_name, in_turn, quiet, record, run_edited
from mechinterp.interventions.judge import Judge
from mechinterp.interventions.neighbours import score_neighbours
from mechinterp.interventions.placement import as_transformer, on_model, placement
from mechinterp.interventions.reference import ablated
from mechinterp.interventions.resume import BaseRun, LayerPart, Start, resume
from mechinterp.interventions.scoring import Scorer, score_runs
from mechinterp.interventions.shared import outputs, streams
from mechinterp.interventions.standing import EditedTransformer, Pass, PassEdit, StandingEdits
from mechinterp.models import take

__all__ = [
    "Activations",
    "BaseRun",
    "EditedTransformer",
    "Judge",
    "LayerPart",
    "Pass",
    "PassEdit",
    "Scorer",
    "StandingEdits",
    "Start",
    "ablated",
    "activations",
    "as_hooked",
    "as_transformer",
    "check_plain",
    "gradients",
    "graph_of",
    "hook_name",
    "in_turn",
    "largest_source",
    "mean_activations",
    "on_model",
    "outputs",
    "placement",
    "quiet",
    "record",
    "resume",
    "run_edited",
    "score_circuits",
    "score_gates",
    "score_neighbours",
    "score_runs",
    "source_steps",
    "source_values",
    "streams",
    "take",
]
