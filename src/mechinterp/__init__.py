"""Train small transformers, find their circuits by causal intervention, and date when each circuit formed.

Nothing heavy is imported here: each name below is fetched from its room when it is first used (PEP 562), so that
`import mechinterp` and the command line's help answer at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mechinterp._version import __version__

if TYPE_CHECKING:
    from mechinterp import attribution as attribution
    from mechinterp import claims as claims
    from mechinterp import core as core
    from mechinterp import curves as curves
    from mechinterp import discovery as discovery
    from mechinterp import evaluation as evaluation
    from mechinterp import interventions as interventions
    from mechinterp import known as known
    from mechinterp import measures as measures
    from mechinterp import models as models
    from mechinterp import pages as pages
    from mechinterp import patching as patching
    from mechinterp import plots as plots
    from mechinterp import probes as probes
    from mechinterp import studies as studies
    from mechinterp import tasks as tasks
    from mechinterp import timeline as timeline
    from mechinterp import training as training
    from mechinterp.attribution import head_scores as head_scores
    from mechinterp.attribution import logit_attribution as logit_attribution
    from mechinterp.claims import Claim as Claim
    from mechinterp.claims import assert_claim as assert_claim
    from mechinterp.claims import load_circuit as load_circuit
    from mechinterp.claims import verify as verify
    from mechinterp.core import Batch as Batch
    from mechinterp.core import Circuit as Circuit
    from mechinterp.core import Edge as Edge
    from mechinterp.core import Pair as Pair
    from mechinterp.core import Site as Site
    from mechinterp.curves import onset as onset
    from mechinterp.discovery import discover as discover
    from mechinterp.evaluation import evaluate as evaluate
    from mechinterp.measures import measure as measure
    from mechinterp.measures import register_measure as register_measure
    from mechinterp.models import ModelConfig as ModelConfig
    from mechinterp.models import Transformer as Transformer
    from mechinterp.models import from_hf as from_hf
    from mechinterp.models import from_transformer_lens as from_transformer_lens
    from mechinterp.models import from_weights as from_weights
    from mechinterp.models import to_bridge as to_bridge
    from mechinterp.pages import report as report
    from mechinterp.patching import estimate_edges as estimate_edges
    from mechinterp.patching import estimate_nodes as estimate_nodes
    from mechinterp.patching import patch_edges as patch_edges
    from mechinterp.patching import patch_nodes as patch_nodes
    from mechinterp.patching import path_patch as path_patch
    from mechinterp.patching import recovery as recovery
    from mechinterp.probes import probe as probe
    from mechinterp.studies import account as account
    from mechinterp.studies import study as study
    from mechinterp.studies import twins as twins
    from mechinterp.timeline import trace as trace
    from mechinterp.timeline import train as train
    from mechinterp.training import Recorder as Recorder
    from mechinterp.training import Run as Run
    from mechinterp.training import TrainConfig as TrainConfig
    from mechinterp.training import train_many as train_many

# Public name -> the module that has it; a name that is its module's own last part is that room itself. No function
# shares its name with a room: importing a room binds it on its parent, and would hide the function.
_EXPORTS: dict[str, str] = {
    "attribution": "mechinterp.attribution",
    "claims": "mechinterp.claims",
    "core": "mechinterp.core",
    "discovery": "mechinterp.discovery",
    "curves": "mechinterp.curves",
    "evaluation": "mechinterp.evaluation",
    "interventions": "mechinterp.interventions",
    "known": "mechinterp.known",
    "measures": "mechinterp.measures",
    "models": "mechinterp.models",
    "pages": "mechinterp.pages",
    "patching": "mechinterp.patching",
    "plots": "mechinterp.plots",
    "probes": "mechinterp.probes",
    "studies": "mechinterp.studies",
    "tasks": "mechinterp.tasks",
    "timeline": "mechinterp.timeline",
    "training": "mechinterp.training",
    "Batch": "mechinterp.core",
    "Circuit": "mechinterp.core",
    "Edge": "mechinterp.core",
    "Pair": "mechinterp.core",
    "Site": "mechinterp.core",
    "ModelConfig": "mechinterp.models",
    "Transformer": "mechinterp.models",
    "from_hf": "mechinterp.models",
    "from_transformer_lens": "mechinterp.models",
    "from_weights": "mechinterp.models",
    "to_bridge": "mechinterp.models",
    "Recorder": "mechinterp.training",
    "Run": "mechinterp.training",
    "TrainConfig": "mechinterp.training",
    "train": "mechinterp.timeline",
    "train_many": "mechinterp.training",
    "estimate_edges": "mechinterp.patching",
    "estimate_nodes": "mechinterp.patching",
    "patch_edges": "mechinterp.patching",
    "patch_nodes": "mechinterp.patching",
    "path_patch": "mechinterp.patching",
    "recovery": "mechinterp.patching",
    "head_scores": "mechinterp.attribution",
    "logit_attribution": "mechinterp.attribution",
    "probe": "mechinterp.probes",
    "discover": "mechinterp.discovery",
    "evaluate": "mechinterp.evaluation",
    "measure": "mechinterp.measures",
    "register_measure": "mechinterp.measures",
    "onset": "mechinterp.curves",
    "account": "mechinterp.studies",
    "study": "mechinterp.studies",
    "twins": "mechinterp.studies",
    "trace": "mechinterp.timeline",
    "report": "mechinterp.pages",
    "Claim": "mechinterp.claims",
    "assert_claim": "mechinterp.claims",
    "load_circuit": "mechinterp.claims",
    "verify": "mechinterp.claims",
}

__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mechinterp' has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
