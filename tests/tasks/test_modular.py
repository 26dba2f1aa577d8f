"""Modular addition: the split, what training sees, that pairs and groups keep to it, what predictors know."""

import math

import pytest
import torch

from mechinterp.core import Batch, ConfigError, metrics
from mechinterp.tasks import ModularAddition
from mechinterp.training import train

TASK = ModularAddition(p=13, watched=20)
every_corruption = pytest.mark.parametrize("corruption", ModularAddition.corruptions)


def rows(batch: Batch) -> set[tuple[int, int]]:
    return {(a, b) for a, b, _ in batch.inputs.tolist()}


def test_the_table_is_addition():
    table = TASK.table()
    assert len(table) == 169 and len(rows(table)) == 169
    for (a, b, ends), target in zip(table.inputs.tolist(), table.targets.tolist(), strict=True):
        assert ends == 13 and target == [-1, -1, (a + b) % 13]
    assert table.scored.tolist() == [[False, False, True]] * 169


def test_the_split_is_of_the_asked_size_and_depends_on_its_seed_alone():
    assert int(TASK.training_set.sum()) == TASK.training_size == round(0.4 * 169)
    assert torch.equal(TASK.training_set, ModularAddition(p=13).training_set)
    other = ModularAddition(p=13, split=1).training_set
    assert not torch.equal(TASK.training_set, other) and int(other.sum()) == TASK.training_size
    # No row or column of the table is favoured.
    share = torch.stack([ModularAddition(p=13, split=s).training_set for s in range(300)]).float().mean(0)
    assert float((share - 68 / 169).abs().max()) < 0.13


def test_training_sees_the_whole_training_set_at_every_step_and_scores_nothing_else():
    one, two = (TASK.training_batch(68, seed, step) for seed, step in ((0, 0), (3, 7)))
    assert torch.equal(one.inputs, two.inputs) and len(one) == 68 + 20
    trained = {(a, b) for a, b in TASK.training_set.nonzero().tolist()}
    assert rows(one[one.scored.any(1)]) == trained and rows(one[~one.scored.any(1)]).isdisjoint(trained)
    groups = TASK.groups(one)
    assert torch.equal(groups["train"], one.scored) and groups["test"].sum().item() == 20
    few = TASK.training_batch(10, 0, 0)
    assert few.scored.sum().item() == 10 and len(rows(few)) == 30 and rows(few) <= rows(one)
    assert not torch.equal(few.inputs, TASK.training_batch(10, 0, 1).inputs)


@pytest.mark.parametrize("loss_on", ["scored", "all"])
def test_test_examples_do_not_train(loss_on: str, tmp_path):
    """The same weights whether test examples ride along or not."""
    made = [
        train(ModularAddition(p=13, watched=watched), steps=5, seed=1, out=tmp_path / str(watched), loss_on=loss_on)
        for watched in (0, 101)
    ]
    weights = [run.model().state_dict() for run in made]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-5, rtol=0)
    line = made[1].metrics()
    assert {"loss_train", "loss_test"} <= set(line.data_vars)
    assert float(line["loss_train"][0]) == float(line["loss"][0]) != float(line["loss_test"][0])


def test_batches_draw_from_all_examples_and_groups_tell_them_apart():
    batch = TASK.batch(4000, 0)
    assert len(rows(batch)) == 169 and batch.scored.sum().item() == 4000
    groups = TASK.groups(batch)
    assert float(groups["train"].sum() / 4000) == pytest.approx(68 / 169, abs=0.03)
    assert torch.equal(groups["train"] | groups["test"], batch.scored)
    for (a, b, _), known in zip(batch.inputs[:50].tolist(), groups["train"][:50, 2].tolist(), strict=True):
        assert bool(TASK.training_set[a, b]) == known


@every_corruption
def test_pairs_are_test_examples_that_differ_in_one_summand(corruption: str):
    pair = TASK.pair(200, 1, corruption)
    clean, twin = pair.clean, pair.corrupted
    assert clean.wrong is not None and twin.wrong is not None
    assert not bool(TASK.is_training(clean).any()) and not bool(TASK.is_training(twin).any())
    place = {"a": 0, "b": 1}[corruption]
    assert (clean.inputs != twin.inputs).nonzero()[:, 1].tolist() == [place] * 200
    assert clean.scored.nonzero()[:, 1].tolist() == [2] * 200
    for batch, other in ((clean, twin), (twin, clean)):
        total = (batch.inputs[:, 0] + batch.inputs[:, 1]) % 13
        assert batch.wrong is not None and torch.equal(batch.targets[:, 2], total)
        assert torch.equal(batch.wrong[:, 2], other.targets[:, 2])
    assert [int(clean.role(name)[0]) for name in ("a", "b", "equals")] == [0, 1, 2]
    addition, memoriser = TASK.predictors()["addition"], TASK.predictors()["memoriser"]
    for batch in (clean, twin):
        assert float(metrics.accuracy(addition(batch), batch).mean()) == 1.0
        assert float(metrics.logit_diff(memoriser(batch), batch).abs().max()) == 0


def test_drawing_is_fast(draws_per_step):
    assert draws_per_step(ModularAddition()) > 100


def test_predictors():
    table = TASK.table()
    groups = TASK.groups(table)
    losses = {}
    for name, predict in TASK.predictors().items():
        loss = TASK.loss(predict(table), table)
        losses[name] = [float(loss[groups[group]].mean()) for group in ("train", "test")]
    uniform, right = math.log(13), 0.0009
    assert losses["uniform"] == pytest.approx([uniform, uniform], abs=1e-4)
    assert losses["memoriser"] == pytest.approx([right, uniform], abs=1e-4)
    assert losses["addition"] == pytest.approx([right, right], abs=1e-4)


def test_latents():
    batch = TASK.batch(50, 4)
    assert set(batch.latents) == set(TASK.latents)
    for example in range(50):
        a, b, _ = batch.inputs[example].tolist()
        found = {name: value[example].tolist() for name, value in batch.latents.items()}
        assert found["a"] == [a] * 3 and found["b"] == [-1, b, b] and found["answer"] == [-1] + [(a + b) % 13] * 2
        assert found["carry"] == [-1] + [int(a + b >= 13)] * 2
        assert found["is_training"] == [-1] + [int(TASK.training_set[a, b])] * 2


def test_settings_without_meaning():
    with pytest.raises(ConfigError, match="leaves nothing to train on or to test"):
        ModularAddition(p=3, fraction=0.99)
    with pytest.raises(ConfigError, match="no two test examples that share a summand"):
        ModularAddition(p=3, fraction=0.9).pair()
    with pytest.raises(ConfigError, match=r"fraction=1\.0"):
        ModularAddition(fraction=1.0)
    assert ModularAddition(p=7).preset().model["d_vocab_out"] == 7
    assert ModularAddition(p=7).preset().training["batch_size"] == 20
