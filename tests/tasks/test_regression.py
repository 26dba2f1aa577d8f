"""In-context linear regression: what is drawn, what theory says of it, and the step of gradient descent by hand."""

import pytest
import torch

from mechinterp.core import Batch, ConfigError, UnsupportedError, metrics
from mechinterp.known.ground_truth import WAYS
from mechinterp.known.regression import gradient_step, gradient_step_model
from mechinterp.models import ModelConfig, Transformer
from mechinterp.patching import patch_edges
from mechinterp.tasks import Regression

PLAIN = Regression()
NOISY = Regression(dim=3, pairs=6, noise=0.7)
every_task = pytest.mark.parametrize("task", [PLAIN, NOISY], ids=["plain", "noisy"])


def error(task: Regression, predictor: str, batch: Batch) -> float:
    return -float(metrics.mse(task.predictors()[predictor](batch), batch).mean())


def weights(batch: Batch, dim: int) -> torch.Tensor:
    return torch.stack([batch.latents[f"weight_{i + 1}"][:, 0] for i in range(dim)], 1)


@every_task
def test_same_seed_same_batch(task: Regression):
    batch, again, other = task.batch(16, 3), task.batch(16, 3), task.batch(16, 4)
    assert torch.equal(batch.inputs, again.inputs) and torch.equal(batch.targets, again.targets)
    assert not bool((batch.inputs == other.inputs)[..., :-1].any())
    assert torch.equal(batch.scored.nonzero()[:, 1], torch.full((16,), task.pairs))


@every_task
def test_y_is_a_linear_function_of_x_with_the_stated_noise(task: Regression):
    batch = task.batch(20_000, 0)
    x, y, w = batch.inputs[..., :-1], batch.inputs[..., -1], weights(batch, task.dim)
    noise = y - torch.einsum("bsd,bd->bs", x, w)
    assert float(noise[:, :-1].square().mean()) == pytest.approx(task.noise**2, abs=0.01)
    assert bool((y[:, -1] == 0).all())
    torch.testing.assert_close(batch.targets[:, -1, 0], (x[:, -1] * w).sum(-1))
    torch.testing.assert_close(batch.targets[:, :-1, 0], y[:, :-1])
    for part in (x, w):
        assert float(part.mean()) == pytest.approx(0, abs=0.02)
        torch.testing.assert_close(torch.cov(part.flatten(0, -2).T), torch.eye(task.dim), atol=0.05, rtol=0)


def test_theory():
    assert PLAIN.rate == 0.625 and PLAIN.least_error == pytest.approx(5 * 6 / 16)
    assert Regression(dim=2, pairs=3).least_error == pytest.approx(2 * 3 / 6)


@every_task
def test_one_step_at_the_best_rate_has_the_stated_error_and_no_other_rate_less(task: Regression):
    batch = task.batch(100_000, 9)
    assert error(task, "zero", batch) == pytest.approx(task.dim, rel=0.02)
    assert error(task, "one_step", batch) == pytest.approx(task.least_error, rel=0.02)
    step = task.predictors()["one_step"](batch)
    tried = {scale: -float(metrics.mse(step * scale, batch).mean()) for scale in (0.9, 1.0, 1.1)}
    assert min(tried, key=tried.__getitem__) == 1.0


def test_solving_is_exact_without_noise_and_ridge_is_best_with_noise():
    assert error(PLAIN, "least_squares", PLAIN.batch(500, 9)) < 1e-6
    assert error(PLAIN, "ridge", PLAIN.batch(500, 9)) < 1e-6
    few = Regression(dim=6, pairs=4)
    # Four of six directions of w are known, the other two are lost.
    assert error(few, "least_squares", few.batch(40_000, 9)) == pytest.approx(2.0, rel=0.03)
    batch = NOISY.batch(40_000, 9)
    errors = {name: error(NOISY, name, batch) for name in NOISY.predictors()}
    assert sorted(errors, key=errors.__getitem__) == ["ridge", "least_squares", "one_step", "zero"]
    # The posterior's spread, computed on its own: noise^2 * trace (X^T X + noise^2 I)^-1.
    x = batch.inputs[:, :-1, :-1].double()
    posterior = torch.linalg.inv(x.mT @ x + 0.49 * torch.eye(3)).diagonal(dim1=1, dim2=2).sum(-1)
    assert errors["ridge"] == pytest.approx(0.49 * float(posterior.mean()), rel=0.03)


@every_task
def test_predictors_by_hand_at_every_position(task: Regression):
    batch = task.batch(3, 1)
    for name, predict in task.predictors().items():
        found = predict(batch)
        assert found.shape == (3, task.seq_len, 1)
        for row in range(3):
            for p in range(task.seq_len):
                x, y = batch.inputs[row, :p, :-1].double(), batch.inputs[row, :p, -1].double()
                if name == "zero":
                    w = torch.zeros(task.dim).double()
                elif name == "one_step":
                    w = task.rate / task.pairs * (x * y[:, None]).sum(0)
                elif name == "ridge" and task.noise:
                    w = torch.linalg.solve(x.T @ x + task.noise**2 * torch.eye(task.dim), x.T @ y)
                else:
                    w = torch.linalg.pinv(x) @ y
                expected = float(batch.inputs[row, p, :-1].double() @ w)
                assert float(found[row, p, 0]) == pytest.approx(expected, rel=1e-3, abs=1e-4), (name, p)


@every_task
def test_pairs_differ_only_in_what_the_circuit_reads(task: Regression):
    for corruption in task.corruptions:
        pair = task.pair(32, 2, corruption)
        changed = pair.clean.inputs != pair.corrupted.inputs
        expected = torch.zeros_like(changed)
        if corruption == "weights":
            expected[:, :-1, -1] = True
            noise = [
                part.inputs[..., -1] - torch.einsum("bsd,bd->bs", part.inputs[..., :-1], weights(part, task.dim))
                for part in (pair.clean, pair.corrupted)
            ]
            torch.testing.assert_close(noise[0][:, :-1], noise[1][:, :-1], atol=1e-4, rtol=0)
        else:
            expected[:, -1, :-1] = True
        assert torch.equal(changed, expected)
        assert pair.clean.wrong is not None
        torch.testing.assert_close(pair.clean.wrong, pair.corrupted.targets)
        assert bool((pair.clean.targets != pair.corrupted.targets)[:, -1].all())
        assert torch.equal(pair.clean.role("query"), torch.full((32,), task.pairs))
    assert not torch.equal(task.pair(32, 2).clean.inputs, task.batch(32, 2).inputs)


def test_the_loss_is_the_squared_distance():
    batch = PLAIN.batch(64, 0)
    output = torch.full((64, 11, 1), 0.5)
    torch.testing.assert_close(PLAIN.loss(output, batch)[:, -1], (batch.targets[:, -1, 0] - 0.5) ** 2)


def test_drawing_is_fast(draws_per_step):
    """Tests check shapes while drawing, which takes half the time of so small a batch: 3.3 draws per gradient.

    Outside of tests it is 7, and 11 per whole training step with optimiser and records.
    """
    assert draws_per_step(PLAIN, 200) > 2


def test_settings_and_corruptions_without_meaning():
    with pytest.raises(ConfigError, match="pairs=0"):
        Regression(pairs=0)
    with pytest.raises(ConfigError, match=r"no corruption 'weight'\. Did you mean 'weights'\?"):
        PLAIN.pair(4, 0, "weight")


# The hand-made step.


@pytest.mark.parametrize("rotate", [False, True])
def test_the_hand_made_model_is_one_gradient_step(rotate: bool):
    made = gradient_step_model(rotate=rotate, inert_heads=2, seed=1)
    batch = PLAIN.batch(200, 0).to("cpu", torch.float64)
    output = made.model(batch.inputs)
    # The road of a gradient: minus the gradient of the examples' mean squared error / 2, at w = 0.
    x, y = batch.inputs[:, :-1, :-1], batch.inputs[:, :-1, -1]
    w = torch.zeros(200, 5, dtype=torch.float64, requires_grad=True)
    (((x @ w[..., None])[..., 0] - y).square().mean(1).sum() / 2).backward()
    assert w.grad is not None
    expected = (-0.625 * w.grad * batch.inputs[:, -1, :-1]).sum(-1)
    torch.testing.assert_close(output[:, -1, 0], expected, atol=1e-12, rtol=0)
    step = gradient_step(made.model, pairs=10)
    assert step.cosine == pytest.approx(1.0, abs=1e-12) and step.rate == pytest.approx(0.625)
    assert step.agreement == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(step.matrix, 0.625 * torch.eye(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_hand_made_model_has_the_least_error():
    made = gradient_step_model(dtype=torch.float32)
    batch = PLAIN.batch(200_000, 1)
    with torch.no_grad():
        found = -metrics.mse(made.model(batch.inputs), batch)
    assert float(found.mean()) == pytest.approx(1.875, abs=5 * float(found.std()) / 200_000**0.5)
    torch.testing.assert_close(
        made.model(batch.inputs[:50])[:, -1], PLAIN.predictors()["one_step"](batch[:50])[:, -1], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("corruption", ["weights", "query"])
@pytest.mark.parametrize(("ablation", "direction"), WAYS)
def test_exam_the_four_true_edges_and_none_other(ablation: str, direction: str, corruption: str):
    made = gradient_step_model(inert_heads=2, seed=3)
    effects = patch_edges(
        made.model, made.pair(64, 0, corruption), direction=direction, ablation=ablation, metric=made.metric
    )["effect"]
    size = abs(effects).mean("example").to_series()
    seen = [str(edge) for edge in made.seen(ablation, corruption, direction)]
    assert size[seen].min() > 0.05 and size.drop(seen).max() < 1e-12
    assert len(made.circuit) == 4


def linear_model(seed: int = 0, **settings) -> Transformer:
    shape = dict(
        n_layers=1, n_heads=2, d_model=7, d_head=3, n_ctx=6, inputs="vectors", d_in=4, outputs="values", d_out=1
    )
    kind = dict(attention="linear", positions="none", normalization="none", attn_bias=False)
    return Transformer(ModelConfig(**{**shape, **kind, **settings}), seed).double()


def test_the_matrix_is_what_the_output_is_made_of():
    """Second differences of the output in x_query and in y_i, at x_i = unit vectors, give the matrix again."""
    model = linear_model()
    step = gradient_step(model, pairs=5)
    blank = torch.zeros(1, 6, 4, dtype=torch.float64)

    def output(a: int, j: int, asked: float, x: float, y: float) -> float:
        here = blank.clone()
        here[0, -1, a], here[0, 0, j], here[0, 0, 3] = asked, x, y
        return float(model(here)[0, -1, 0].detach())

    for a in range(3):
        for j in range(3):
            # What x and y do together and neither alone, with the query and not without it.
            together = output(a, j, 1, 1, 1) - output(a, j, 1, 1, 0) - output(a, j, 1, 0, 1) + output(a, j, 1, 0, 0)
            without = output(a, j, 0, 1, 1) - output(a, j, 0, 1, 0) - output(a, j, 0, 0, 1) + output(a, j, 0, 0, 0)
            assert together - without == pytest.approx(float(step.matrix[a, j]) / 5, abs=1e-9)
    assert abs(step.cosine) < 0.9 and abs(step.agreement) < 0.5


def test_a_value_that_reads_x_too_leaves_the_cosine_and_lowers_the_agreement():
    made = gradient_step_model(rotate=False)
    with torch.no_grad():
        made.model.blocks[0].attn.W_V[0, 0, 0] = 1.0
    step = gradient_step(made.model, pairs=10)
    assert step.cosine == pytest.approx(1.0, abs=1e-9) and 0.8 < step.agreement < 0.98
    wrong = gradient_step_model(rotate=False)
    with torch.no_grad():
        wrong.model.blocks[0].attn.W_K[0, 0] = 0.0
    # One of five directions is lost: the square root of 4/5.
    assert gradient_step(wrong.model, pairs=10).cosine == pytest.approx(0.8**0.5, abs=1e-9)


def test_only_one_linear_layer_is_compared():
    with pytest.raises(UnsupportedError, match="with n_layers=1; this model has n_layers=2"):
        gradient_step(linear_model(n_layers=2), pairs=5)
    with pytest.raises(UnsupportedError, match="attention='linear'"):
        gradient_step(linear_model(attention="softmax"), pairs=5)


def test_a_short_training_finds_the_step():
    """Three hundred updates of the preset's model; chance is a cosine of 0 and an error of 5."""
    preset = PLAIN.preset()
    model = Transformer(ModelConfig(**preset.model), seed=0)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(300):
        batch = PLAIN.training_batch(512, 0, step)
        adam.zero_grad()
        PLAIN.loss(model(batch.inputs), batch)[batch.scored].mean().backward()
        adam.step()
    batch = PLAIN.batch(20_000, 5)
    with torch.no_grad():
        found = -float(metrics.mse(model(batch.inputs), batch).mean())
    assert found == pytest.approx(1.875, rel=0.05)
    step = gradient_step(model, pairs=10)
    assert step.cosine > 0.99 and step.agreement > 0.98
