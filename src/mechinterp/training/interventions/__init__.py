"""Interventions in training: what can be changed, as data (`course.py` does it)."""

from mechinterp.training.interventions.common import HeadRole, Intervention
from mechinterp.training.interventions.on_activations import (
    ClampSite,
    DisallowKeys,
    GiveCopy,
    GiveInput,
    GivePattern,
    KeepFork,
    ScaleSite,
)
from mechinterp.training.interventions.on_weights import (
    ChangeSettings,
    FreezeWeights,
    ReinitialiseWeights,
    TransplantWeights,
)
from mechinterp.training.interventions.specs import INTERVENTION_KINDS, AnyIntervention, Resolution, as_interventions

__all__ = [
    "INTERVENTION_KINDS",
    "AnyIntervention",
    "ChangeSettings",
    "ClampSite",
    "DisallowKeys",
    "FreezeWeights",
    "GiveCopy",
    "GiveInput",
    "GivePattern",
    "HeadRole",
    "Intervention",
    "KeepFork",
    "ReinitialiseWeights",
    "Resolution",
    "ScaleSite",
    "TransplantWeights",
    "as_interventions",
]
