"""Nulls of training: nothing changes but what the task is learnt from."""

from typing import get_args

import pytest
import torch

from mechinterp.core import ConfigError
from mechinterp.tasks import MarkovChains, ModularAddition, Recall, Regression
from mechinterp.training import Run, TrainConfig, Trainer, resolve, train
from mechinterp.training.nulls import TRAINING_NULLS, exchange_inputs, shuffle_targets

TASKS = [MarkovChains(seq_len=12), Recall(), ModularAddition(), Regression()]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_targets_come_from_other_sequences_and_none_is_lost(task):
    batch = task.training_batch(64, 3, 5)
    # Where each target comes from, instead of what it says: its place, counted through the batch.
    whole = batch.targets.ndim == 2
    places = torch.arange(batch.scored.numel()).view_as(batch.scored)
    marked = type(batch)(batch.inputs, places if whole else places[..., None].float(), batch.scored)
    targets = shuffle_targets(marked, seed=1).targets
    targets = targets if whole else targets[..., 0].long()
    sequence = torch.arange(len(batch))[:, None].expand_as(batch.scored)
    source = targets // batch.seq_len
    assert (source != sequence)[batch.scored].all()
    assert (targets == places)[~batch.scored].all()
    assert targets[batch.scored].sort().values.tolist() == places[batch.scored].tolist()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_each_position_keeps_its_inputs_and_loses_their_company(task):
    batch = task.training_batch(64, 3, 5)
    mixed = exchange_inputs(batch, seed=1)
    for position in range(batch.seq_len):
        before, after = (one.inputs[:, position].reshape(len(batch), -1) for one in (batch, mixed))
        assert sorted(before.tolist()) == sorted(after.tolist())
    assert torch.equal(mixed.targets, batch.targets) and not torch.equal(mixed.inputs, batch.inputs)


def test_a_fixed_training_set_keeps_its_wrong_answers():
    task = ModularAddition()
    trainer = Trainer.of(task, *resolve(task, overrides={"null": "shuffled-targets"}), seed=0)
    first, later = (trainer.losses(step).batch for step in (0, 7))
    assert torch.equal(first.targets, later.targets)
    assert not torch.equal(first.targets, task.training_batch(len(first), 0, 0).targets)


def test_one_sequence_alone_cannot_be_shuffled():
    with pytest.raises(ConfigError, match="in one sequence: draw more sequences"):
        shuffle_targets(MarkovChains(seq_len=12).batch(1), 0)


@pytest.mark.parametrize("null", TRAINING_NULLS)
def test_a_run_records_its_null_and_learns_nothing(null, tmp_path):
    task = MarkovChains()
    train(task, seed=0, out=tmp_path, steps=150, null=null, log_checkpoints=0, linear_checkpoints=1)
    run = Run(tmp_path)
    assert run.config.training.null == null and run.task == task
    batch = task.batch(256, 9)
    with torch.no_grad():
        loss = task.loss(run.model()(batch.inputs), batch)[batch.scored].mean()
        chance = task.loss(task.predictors()["uniform"](batch), batch)[batch.scored].mean()
    assert loss > 0.98 * chance


def test_the_words_of_the_setting_are_the_nulls():
    words = get_args(TrainConfig.model_fields["null"].annotation)
    assert words == ("none", *TRAINING_NULLS)
