"""The null of shuffled targets: nothing but the pairing of sequences and answers changes."""

import pytest
import torch

from mechinterp.tasks import MarkovChains, ModularAddition, Recall, Regression

TASKS = [MarkovChains(seq_len=12), Recall(), ModularAddition(), Regression()]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_targets_come_from_other_sequences_and_none_is_lost(task, shuffled):
    batch = task.training_batch(64, 3, 5)
    # Where each target comes from, instead of what it says: its place, counted through the batch.
    whole = batch.targets.ndim == 2
    places = torch.arange(batch.scored.numel()).view_as(batch.scored)
    marked = type(batch)(batch.inputs, places if whole else places[..., None].float(), batch.scored)
    found = shuffled.shuffle_targets(marked, seed=1).targets
    found = found if whole else found[..., 0].long()
    sequence = torch.arange(len(batch))[:, None].expand_as(batch.scored)
    source = found // batch.seq_len
    assert (source != sequence)[batch.scored].all()
    assert (found == places)[~batch.scored].all()
    assert found[batch.scored].sort().values.tolist() == places[batch.scored].tolist()


def test_only_training_is_shuffled(shuffled):
    task = MarkovChains(seq_len=12)
    other = shuffled.shuffled(task)
    assert other.preset() == task.preset() and list(other.predictors()) == list(task.predictors())
    mine, theirs = task.training_batch(8, 0, 0), other.training_batch(8, 0, 0)
    assert torch.equal(mine.inputs, theirs.inputs) and not torch.equal(mine.targets, theirs.targets)
    for step in (0, 1):
        again = shuffled.shuffle_targets(task.training_batch(8, 0, step), 0)
        assert torch.equal(again.targets, other.training_batch(8, 0, step).targets)


def test_a_fixed_training_set_keeps_its_wrong_answers(shuffled):
    other = shuffled.shuffled(ModularAddition())
    size = other.preset().training["batch_size"]
    first, later = other.training_batch(size, 0, 0), other.training_batch(size, 0, 7)
    assert torch.equal(first.targets, later.targets)


def test_one_sequence_alone_cannot_be_shuffled(shuffled):
    with pytest.raises(ValueError, match="one sequence"):
        shuffled.shuffle_targets(MarkovChains(seq_len=12).batch(1), 0)
