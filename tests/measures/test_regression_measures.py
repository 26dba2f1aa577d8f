"""Measures of in-context regression: the hand-made step, off its setting, and the formula for its error."""

import pytest
import torch

from mechinterp.core import UnsupportedError
from mechinterp.known.regression import gradient_step_model
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, Regression

TASK = Regression()
MADE = gradient_step_model(dtype=torch.float32, inert_heads=1)


def quantity(model: Transformer, task: Regression, name: str, **params) -> float:
    return float(measure("gradient_step", **params)(model, task, 0).sel(quantity=name))


def test_the_hand_made_step_is_one_in_every_quantity():
    found = measure("gradient_step")(MADE.model, TASK, 0)
    assert found["quantity"].values.tolist() == ["rate", "cosine", "agreement", "largest", "smallest", "expected"]
    assert found.values == pytest.approx(1, abs=1e-5)
    error = measure("regression_error", examples=200_000)(MADE.model, TASK, 0)
    assert error.dims == ("example",) and float(error.mean()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize(
    ("settings", "scale"), [(dict(pairs=5), 1.0), (dict(noise=1.0), 1.0), (dict(), 1.5), (dict(noise=0.5), 0.5)]
)
def test_off_its_setting_the_error_is_what_the_formula_says(settings: dict, scale: float):
    task = Regression(**settings)
    found = measure("regression_error", examples=200_000, scale=scale)(MADE.model, task, 0)
    expected = quantity(MADE.model, task, "expected", scale=scale)
    assert expected != pytest.approx(1, abs=0.004)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / 200_000**0.5)


def test_the_rate_is_in_units_of_the_tasks_best():
    assert quantity(MADE.model, Regression(pairs=5), "rate") == pytest.approx(0.3125 / (5 / 11), rel=1e-5)
    assert quantity(MADE.model, Regression(noise=2.0), "rate") == pytest.approx(0.625 * 2.0, rel=1e-5)
    # By hand: r = 0.3125, N = 5: d (1 - 2 r + r^2 (1 + 6 / 5)) over d (1 - 5 / 11).
    expected = (1 - 0.625 + 0.3125**2 * 2.2) / (6 / 11)
    assert quantity(MADE.model, Regression(pairs=5), "expected") == pytest.approx(expected, rel=1e-5)


def test_eigenvalues_say_which_direction_is_learnt_least():
    made = gradient_step_model(rotate=False, dtype=torch.float32)
    with torch.no_grad():
        made.model.blocks[0].attn.W_K[0, 0] *= 0.25
        made.model.blocks[0].attn.W_K[0, 1] *= 1.5
    assert quantity(made.model, TASK, "smallest") == pytest.approx(0.25, rel=1e-5)
    assert quantity(made.model, TASK, "largest") == pytest.approx(1.5, rel=1e-5)
    assert quantity(made.model, TASK, "rate") == pytest.approx((3 + 0.25 + 1.5) / 5, rel=1e-5)


def test_what_they_are_not_defined_for():
    with pytest.raises(UnsupportedError, match="defined for regression, and the task is 'induction'"):
        measure("regression_error")(MADE.model, Induction(), 0)
    softmax = Transformer(ModelConfig(**{**TASK.preset().model, "attention": "softmax"}))
    with pytest.raises(UnsupportedError, match="attention='linear'"):
        measure("gradient_step")(softmax, TASK, 0)
    assert float(measure("regression_error", examples=4096)(softmax, TASK, 0).mean()) > 1.5
    with pytest.raises(UnsupportedError, match="needs a Transformer"):
        measure("gradient_step")(torch.nn.Linear(1, 1), TASK, 0)
