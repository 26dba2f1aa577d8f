"""Tasks: seeded rules that draw sequences, their right answers, counterfactual pairs and reference predictors."""

from mechinterp.tasks.base import ALL, Predictor, Preset, Task, from_dict, get, names, task_class
from mechinterp.tasks.classification import Classification
from mechinterp.tasks.contract import Offer, check
from mechinterp.tasks.induction import Induction
from mechinterp.tasks.markov import MarkovChains
from mechinterp.tasks.modular import ModularAddition
from mechinterp.tasks.moving_sum import MovingSum
from mechinterp.tasks.own import from_file
from mechinterp.tasks.prompts import Prompts
from mechinterp.tasks.recall import Recall
from mechinterp.tasks.regression import Regression
from mechinterp.tasks.templates import TEMPLATES, arguments, indirect_objects, later_years

__all__ = [
    "ALL",
    "TEMPLATES",
    "Classification",
    "Induction",
    "MarkovChains",
    "ModularAddition",
    "MovingSum",
    "Offer",
    "Predictor",
    "Preset",
    "Prompts",
    "Recall",
    "Regression",
    "Task",
    "arguments",
    "check",
    "from_dict",
    "from_file",
    "get",
    "indirect_objects",
    "later_years",
    "names",
    "task_class",
]
