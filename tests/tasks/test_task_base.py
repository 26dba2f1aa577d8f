"""Task: registry, settings, defaults that later tasks stand on."""

import pytest
import torch

from mechinterp import tasks
from mechinterp.core import Batch, ConfigError, ShapeError, UnsupportedError


class VectorTask(tasks.Task):
    """Real vectors in, real values out, a fixed training set with its test examples riding along unscored."""

    name = "vector-test-task"
    noise: float = 0.1

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        gen = torch.Generator().manual_seed(seed)
        inputs = torch.randn(batch, 3, 5, generator=gen)
        return Batch(inputs, inputs.sum(-1), torch.ones(batch, 3, dtype=torch.bool))

    def training_batch(self, batch: int, seed: int, step: int) -> Batch:
        return self.batch(8, 0)


def test_registry_finds_users_tasks_by_name():
    assert "vector-test-task" in tasks.names() and "induction" in tasks.names()
    task = tasks.get("vector-test-task", noise=0.5)
    assert task == VectorTask(noise=0.5) and tasks.from_dict(task.to_dict()) == task
    assert task.to_dict() == {"name": "vector-test-task", "noise": 0.5}


def test_tasks_are_frozen_hashable_values():
    assert tasks.Induction(vocab=40) == tasks.Induction(vocab=40)
    assert len({tasks.Induction(vocab=40), tasks.Induction(vocab=40), tasks.Induction()}) == 2
    with pytest.raises(Exception, match="frozen"):
        tasks.Induction().vocab = 3  # pyright: ignore


def test_unknown_names_are_one_clear_line():
    with pytest.raises(ConfigError, match=r"no task 'inductoin'\. Did you mean 'induction'\?"):
        tasks.get("inductoin")
    with pytest.raises(ConfigError, match=r"Induction: no setting 'vocabulary'\. Did you mean 'vocab'\?"):
        tasks.get("induction", vocabulary=3)
    with pytest.raises(ConfigError, match="the name is missing"):
        tasks.from_dict({"vocab": 3})
    with pytest.raises(ConfigError, match=r"seq_len='long'.*integer"):
        tasks.Induction(seq_len="long")  # pyright: ignore


def test_a_task_class_needs_a_name_of_its_own():
    with pytest.raises(ConfigError, match="no name of its own"):

        class Nameless(tasks.Induction):
            pass

    with pytest.raises(ConfigError, match="exists already"):

        class Thief(tasks.Induction):
            name = "induction"

    assert tasks.get("induction").__class__ is tasks.Induction


def test_what_a_task_does_not_give_it_says():
    with pytest.raises(UnsupportedError, match="'vector-test-task' has no pairs"):
        VectorTask().pair()
    with pytest.raises(UnsupportedError, match="no preset"):
        VectorTask().preset()
    assert VectorTask().predictors() == {} and VectorTask().latents == {}


def test_loss_of_tokens_and_of_values():
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
    batch = Batch(torch.zeros(1, 2, dtype=torch.long), torch.tensor([[1, -1]]), torch.tensor([[True, False]]))
    loss = tasks.Induction().loss(logits, batch)
    torch.testing.assert_close(loss, torch.tensor([[0.313262, 0.0]]))
    task = VectorTask()
    real = task.batch(2)
    torch.testing.assert_close(task.loss(real.targets[..., None] + 2, real), torch.full((2, 3), 4.0))
    with pytest.raises(ShapeError, match="targets"):
        task.loss(torch.zeros(2, 3, 2), real)
    with pytest.raises(ShapeError, match="do not fit target tokens"):
        tasks.Induction().loss(torch.zeros(1, 3, 2), batch)


def test_training_batches_depend_on_seed_and_step_alone():
    task = tasks.Induction()
    again = task.training_batch(4, seed=1, step=7)
    assert torch.equal(task.training_batch(4, seed=1, step=7).inputs, again.inputs)
    assert not torch.equal(task.training_batch(4, seed=1, step=8).inputs, again.inputs)
    assert not torch.equal(task.training_batch(4, seed=2, step=7).inputs, again.inputs)
    fixed = VectorTask()
    assert torch.equal(fixed.training_batch(4, 0, 1).inputs, fixed.training_batch(4, 5, 9).inputs)
