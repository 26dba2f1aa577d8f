"""Tasks: seeded rules that draw sequences, their right answers, counterfactual pairs and reference predictors."""

from mechinterp.tasks.base import Predictor, Preset, Task, from_dict, get, names, task_class
from mechinterp.tasks.classification import Classification
from mechinterp.tasks.induction import Induction
from mechinterp.tasks.regression import Regression

__all__ = [
    "Classification",
    "Induction",
    "Predictor",
    "Preset",
    "Regression",
    "Task",
    "from_dict",
    "get",
    "names",
    "task_class",
]
