"""Tasks: seeded rules that draw sequences, their right answers, counterfactual pairs and reference predictors."""

from mechinterp.tasks.base import ALL, Predictor, Preset, Task, from_dict, get, names, task_class
from mechinterp.tasks.classification import Classification
from mechinterp.tasks.contract import Offer, check
from mechinterp.tasks.induction import Induction
from mechinterp.tasks.markov import MarkovChains
from mechinterp.tasks.modular import ModularAddition
from mechinterp.tasks.own import from_file
from mechinterp.tasks.recall import Recall
from mechinterp.tasks.regression import Regression

__all__ = [
    "ALL",
    "Classification",
    "Induction",
    "MarkovChains",
    "ModularAddition",
    "Offer",
    "Predictor",
    "Preset",
    "Recall",
    "Regression",
    "Task",
    "check",
    "from_dict",
    "from_file",
    "get",
    "names",
    "task_class",
]
