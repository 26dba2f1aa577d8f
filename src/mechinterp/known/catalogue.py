"""All models whose circuit is known, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mechinterp.known.compiled.load import compiled_model, compiled_names, compiled_program
from mechinterp.known.gates import gate_model
from mechinterp.known.ground_truth import KnownModel
from mechinterp.known.induction import induction_model
from mechinterp.known.later_heads import later_head_model
from mechinterp.known.regression import gradient_step_model


@dataclass(frozen=True)
class Blueprint:
    """A model with a known circuit, not yet built.

    Args:
        about: What it computes.
        build: Makes it; takes `inert_heads`, `rotate`, `dtype` and `seed`.
    """

    about: str
    build: Callable[..., KnownModel]


def known_models() -> dict[str, Blueprint]:
    """Name -> model: those made by hand, then the compiled programs as `compiled/<name>`.

    >>> list(known_models())[:5]
    ['induction', 'gradient_step', 'and', 'or', 'copies']
    """
    by_hand = {
        "induction": Blueprint("The token that followed the earlier copy of the last one.", induction_model),
        "gradient_step": Blueprint("Linear regression by one step of gradient descent.", gradient_step_model),
        "and": Blueprint(
            "Whether two facts both hold; noising shows either, denoising neither.", partial(gate_model, "and")
        ),
        "or": Blueprint(
            "Whether one of two facts holds; denoising shows either, noising neither.", partial(gate_model, "or")
        ),
        "copies": Blueprint("One fact from two saturated copies of a head.", partial(gate_model, "copies")),
        "backup": Blueprint(
            "One fact from a head, or from a later one that acts only when the first is gone.",
            partial(later_head_model, "backup"),
        ),
        "suppressor": Blueprint(
            "One fact from a head, made less sure by a later one.", partial(later_head_model, "suppressor")
        ),
    }
    compiled = {
        f"compiled/{name}": Blueprint(compiled_program(name).says, partial(compiled_model, name))
        for name in compiled_names()
    }
    return by_hand | compiled
