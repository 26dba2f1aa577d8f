"""Tasks: seeded rules that draw sequences, their right answers, counterfactual pairs and reference predictors."""

from mechinterp.tasks.base import Predictor, Preset, Task, from_dict, get, names, task_class
from mechinterp.tasks.induction import Induction

__all__ = ["Induction", "Predictor", "Preset", "Task", "from_dict", "get", "names", "task_class"]
