"""Moving sums: right by hand, what a pair changes, what the references pay, where the numbers of a sum stand."""

import math

import pytest
import torch

from mechinterp.core import Batch, ConfigError, metrics
from mechinterp.tasks import MovingSum

TASKS = {"default": MovingSum(), "wide": MovingSum(p=7, numbers=6, window=3)}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_corruption = pytest.mark.parametrize("corruption", MovingSum.corruptions)


def by_hand(task: MovingSum, numbers: list[int]) -> list[int]:
    return [sum(numbers[max(0, j - task.window + 1) : j + 1]) % task.p for j in range(task.numbers)]


@every_task
def test_each_sum_adds_up_the_numbers_of_its_window(task: MovingSum):
    batch = task.batch(50, 1)
    for row, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        numbers, sums = row[: task.numbers], by_hand(task, row[: task.numbers])
        assert set(numbers) <= set(range(1, task.p)) and row[task.numbers] == task.p
        assert row[task.numbers + 1 :] == sums[:-1]
        assert targets == [-1] * task.numbers + sums
    assert torch.equal(batch.scored, batch.targets >= 0)
    groups = task.groups(batch)
    assert groups["partial"].sum(1).unique().tolist() == [task.window - 1]
    assert torch.equal(groups["whole"] ^ groups["partial"], batch.scored)


def test_numbers_are_drawn_evenly():
    counts = torch.bincount(MovingSum().batch(2000, 0).inputs[:, :16].flatten(), minlength=17)
    assert int(counts[0]) == 0 and float((counts[1:] / 2000 - 1).abs().max()) < 0.1


@every_task
def test_latents_follow_from_the_numbers(task: MovingSum):
    batch = task.batch(20, 2)
    for example, row in enumerate(batch.inputs.tolist()):
        for j in range(task.numbers):
            window = row[max(0, j - task.window + 1) : j + 1]
            at = {name: int(value[example, task.numbers + j]) for name, value in batch.latents.items()}
            assert (
                at["newest"] == row[j] and at["answer"] == sum(window) % task.p and at["carry"] == sum(window) // task.p
            )
            assert at["oldest"] == (window[0] if len(window) == task.window else -1)
            assert at["previous_token"] == row[task.numbers + j - 1]


@every_task
def test_window_offsets_lead_from_each_sum_to_its_numbers(task: MovingSum):
    batch = task.batch(10, 3)
    for j in range(task.window - 1, task.numbers):
        query = task.numbers + j
        total = sum(batch.inputs[:, query - back] for back in task.window_offsets)
        assert torch.equal(total % task.p, batch.targets[:, query])


@every_task
@every_corruption
def test_a_pair_changes_one_number_and_with_it_the_answer(task: MovingSum, corruption: str):
    pair = task.pair(60, 4, corruption)
    clean, twin = pair.clean, pair.corrupted
    assert clean.wrong is not None and twin.wrong is not None
    assert clean.scored.sum(1).tolist() == [1] * 60 and torch.equal(clean.scored, twin.scored)
    for example in range(60):
        rows = clean.inputs[example].tolist(), twin.inputs[example].tolist()
        at = {name: int(place[example]) for name, place in clean.roles.items()}
        assert [q for q in range(clean.seq_len) if rows[0][q] != rows[1][q]] == [at[corruption]]
        assert at["newest"] - at["oldest"] == task.window - 1 and at["query"] == at["newest"] + task.numbers
        right, wrong = (by_hand(task, row[: task.numbers])[at["newest"]] for row in rows)
        q = at["query"]
        assert right != wrong and (int(clean.targets[example, q]), int(clean.wrong[example, q])) == (right, wrong)
        assert (int(twin.targets[example, q]), int(twin.wrong[example, q])) == (wrong, right)
        assert 1 <= rows[1][at[corruption]] < task.p


@every_task
def test_all_windows_are_asked_and_a_changed_number_may_be_any_other(task: MovingSum):
    pair = task.pair(4000, 0, "oldest")
    counts = torch.bincount(pair.clean.roles["newest"])
    assert int((counts > 0).sum()) == task.numbers - task.window + 1
    place = pair.clean.roles["oldest"][:, None]
    before, after = pair.clean.inputs.gather(1, place), pair.corrupted.inputs.gather(1, place)
    moves = {(int(a), int(b)) for a, b in zip(before, after, strict=True)}
    assert len(moves) == (task.p - 1) * (task.p - 2)


def loss_of(task: MovingSum, predictor: str, batch: Batch) -> dict[str, float]:
    log_probs = task.predictors()[predictor](batch)
    right = log_probs.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return {name: -float(right[mask].mean()) for name, mask in task.groups(batch).items()}


def test_reference_losses():
    task = MovingSum()
    batch, chance = task.batch(64, 0), math.log(17)
    assert loss_of(task, "uniform", batch) == pytest.approx({"whole": chance, "partial": chance}, abs=1e-5)
    assert loss_of(task, "first_only", batch) == pytest.approx({"whole": chance, "partial": 0}, abs=2e-3)
    assert loss_of(task, "moving_sum", batch) == pytest.approx({"whole": 0, "partial": 0}, abs=2e-3)


@every_corruption
def test_only_the_sum_changes_its_mind(corruption: str):
    task = MovingSum()
    pair = task.pair(64, 0, corruption)
    for batch in (pair.clean, pair.corrupted):
        assert float(metrics.logit_diff(task.predictors()["moving_sum"](batch), batch).min()) > 9
        assert float(metrics.logit_diff(task.predictors()["first_only"](batch), batch).abs().max()) == 0


def test_a_window_longer_than_the_numbers_is_refused():
    with pytest.raises(ConfigError, match="window=5 is longer than numbers=4"):
        MovingSum(numbers=4, window=5)


def test_drawing_costs_less_than_a_tenth_of_a_step(draws_per_step):
    assert draws_per_step(MovingSum(), 4) > 10
