"""Induction: what is drawn, what is scored, what a pair changes, and that positions alone do not solve it."""

import math
import time

import pytest
import torch

from mechinterp.core import Batch, ConfigError, metrics
from mechinterp.models import Transformer
from mechinterp.tasks import Induction
from mechinterp.training import resolve

TASKS = {
    "segment": Induction(),
    "replace": Induction(replace=True),
    "short": Induction(vocab=16, seq_len=12, segment=4, repeats=2),
    "successor": Induction(flavour="successor"),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_corruption = pytest.mark.parametrize("corruption", Induction.corruptions)


def loss_of(task: Induction, predictor: str, batch: Batch, group: str = "repeat") -> float:
    log_probs = task.predictors()[predictor](batch)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(batch.inputs.shape), atol=1e-4, rtol=0)
    return -float(log_probs.gather(-1, batch.targets[..., None])[..., 0][task.groups(batch)[group]].mean())


def copies(batch: Batch, q: int, example: int) -> list[int]:
    """Earlier positions that hold the token at q."""
    row = batch.inputs[example]
    return [p for p in range(q) if row[p] == row[q]]


@every_task
def test_same_seed_same_batch_and_targets_are_the_next_tokens(task: Induction):
    batch, again, other = task.batch(16, 3), task.batch(16, 3), task.batch(16, 4)
    assert torch.equal(batch.inputs, again.inputs) and torch.equal(batch.targets, again.targets)
    assert not torch.equal(batch.inputs, other.inputs)
    assert batch.inputs.shape == (16, task.seq_len) and int(batch.inputs.max()) < task.vocab
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:]) and int(batch.targets.min()) >= 0


@every_task
def test_scored_positions_can_be_predicted_from_an_earlier_copy(task: Induction):
    batch = task.batch(16, 0)
    for example, q in batch.scored.nonzero().tolist():
        followers = [int(batch.inputs[example, p + 1]) for p in copies(batch, q, example)]
        assert int(batch.targets[example, q]) in followers


def test_segment_layout():
    batch = Induction().batch(200, 0)
    tokens = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    for row, scored in zip(tokens, batch.scored, strict=True):
        counts = torch.bincount(row, minlength=64)
        assert int((counts == 3).sum()) == 16 and int((counts == 1).sum()) == 17 and int((counts == 2).sum()) == 0
        first_of_repeat = [q for q in range(64) if scored[q] and not (q and scored[q - 1])]
        assert int(scored.sum()) == 30 and len(first_of_repeat) in (1, 2)
        # The token that starts a repeat cannot be foreseen, so the position before it is not scored.
        assert all(int(counts[row[q]]) == 3 for q in first_of_repeat)


def test_all_layouts_are_equally_likely():
    task = Induction(vocab=16, seq_len=8, segment=2, repeats=3)
    copy, _ = task._draw_layout(20_000, torch.Generator().manual_seed(0))
    code = ((copy + 1) * 4 ** torch.arange(9)).sum(1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 43.8  # chi squared, 19 degrees of freedom, p = .001


@pytest.mark.parametrize(("low", "high"), [(0, 2), (3, 5), (4, None)])
def test_gaps_keep_their_limits(low: int, high: int | None):
    copy, place = Induction(min_gap=low, max_gap=high)._draw_layout(500, torch.Generator().manual_seed(0))
    starts = torch.stack([((copy == k) & (place == 0)).long().argmax(1) for k in range(3)], 1)
    gaps = starts.diff(dim=1) - 16
    assert int(gaps.min()) == low and int(gaps.max()) == (min(high, 17) if high is not None else int(gaps.max()))


def test_successor_walks_follow_one_cycle():
    task = Induction(flavour="successor", restart=0.0, symbols=5, seq_len=20)
    batch = task.batch(8, 0)
    assert torch.equal(batch.inputs[:, :15], batch.inputs[:, 5:]) and int(batch.scored.sum()) == 8 * 15
    jumpy = Induction(flavour="successor")
    tokens, scored = jumpy._draw(400, torch.Generator().manual_seed(0))
    assert all(len(row.unique()) <= 16 for row in tokens)
    # A jump lands one step along with probability 1/16: steps along the cycle are 3/4 + 1/64 of all, so in scored
    # positions late in the sequence, where nearly every step was seen before.
    assert float(scored[:, -8:].float().mean()) == pytest.approx(0.766 * (1 - (1 - 0.766 / 16) ** 60), abs=0.02)


@every_task
def test_latents_by_hand(task: Induction):
    batch = task.batch(4, 1)
    assert set(batch.latents) == set(task.latents)
    for example in range(4):
        for q in range(task.seq_len):
            before = copies(batch, q, example)
            row = batch.inputs[example]
            assert int(batch.latents["is_repeat"][example, q]) == bool(before)
            assert int(batch.latents["induction_target"][example, q]) == (int(row[before[-1] + 1]) if before else -1)
            assert int(batch.latents["previous_token"][example, q]) == (int(row[q - 1]) if q else -1)


@every_task
def test_groups(task: Induction):
    batch = task.batch(8, 1)
    groups = task.groups(batch)
    assert torch.equal(groups["repeat"], batch.scored) and not bool((groups["repeat"] & groups["fresh"]).any())
    for example, q in groups["fresh"].nonzero().tolist():
        assert int(batch.targets[example, q]) not in batch.inputs[example, : q + 1].tolist()


def says(batch: Batch, example: int, q: int) -> int:
    """What followed the only earlier copy of the token at q."""
    (p,) = copies(batch, q, example)
    return int(batch.inputs[example, p + 1])


@every_task
@every_corruption
def test_pairs_differ_only_in_what_the_circuit_reads(task: Induction, corruption: str):
    pair = task.pair(64, 2, corruption)
    clean, corrupted, everyone = pair.clean, pair.corrupted, torch.arange(64)
    assert clean.wrong is not None and corrupted.wrong is not None and len(pair) == 64
    query, first_a, first_b = (clean.role(name) for name in ("second_A", "first_A", "first_B"))
    assert torch.equal(clean.scored.nonzero()[:, 1], query) and int(clean.scored.sum()) == 64
    assert torch.equal(first_b, first_a + 1) and bool((first_b < query).all())
    answer = clean.role("answer")
    assert torch.equal(answer, torch.where(query + 1 < task.seq_len, query + 1, -1))
    changed = [set(row.nonzero().flatten().tolist()) for row in clean.inputs != corrupted.inputs]
    if corruption == "successor":
        assert changed == [{int(p)} for p in first_b]
    else:
        other = clean.role("other_A")
        assert changed == [{int(a), int(b)} for a, b in zip(first_a, other, strict=True)]
        assert torch.equal(clean.inputs[everyone, first_a], corrupted.inputs[everyone, other])
        assert torch.equal(clean.inputs[everyone, other], corrupted.inputs[everyone, first_a])
    for example in range(64):
        q = int(query[example])
        right, wrong = says(clean, example, q), says(corrupted, example, q)
        assert right != wrong
        assert (int(clean.targets[example, q]), int(clean.wrong[example, q])) == (right, wrong)
        assert (int(corrupted.targets[example, q]), int(corrupted.wrong[example, q])) == (wrong, right)
    assert bool((clean.wrong[~clean.scored] == -1).all())


@every_corruption
def test_the_ideal_predictor_changes_its_mind_on_every_pair(corruption: str):
    task = Induction()
    pair = task.pair(64, 0, corruption)
    ideal = task.predictors()["one_token_match"]
    for batch in (pair.clean, pair.corrupted):
        assert float(metrics.accuracy(ideal(batch), batch).mean()) == 1.0
        assert float(metrics.logit_diff(ideal(batch), batch).min()) > 9


def test_pairs_and_batches_of_one_seed_share_no_sequence():
    batch, pair = Induction().batch(8, 0), Induction().pair(8, 0)
    assert not bool((batch.inputs[:, None] == pair.clean.inputs[None]).all(-1).any())
    assert torch.equal(pair.clean.inputs, Induction().pair(8, 0).clean.inputs)


def test_reference_losses():
    task, replaced = Induction(), Induction(replace=True)
    batch = task.batch(512, 9)
    assert loss_of(task, "uniform", batch) == pytest.approx(math.log(64), abs=1e-4)
    # Between log 16 (only the segment seen) and log 33 (all tokens seen).
    assert loss_of(task, "seen_tokens", batch) == pytest.approx(3.27, abs=0.03)
    assert loss_of(task, "one_token_match", batch) == pytest.approx(0.001, abs=2e-4)
    assert loss_of(replaced, "one_token_match", replaced.batch(512, 9)) == pytest.approx(0.26, abs=0.03)
    assert loss_of(task, "one_token_match", batch, "fresh") > math.log(64)


def test_positions_alone_do_not_solve_it():
    """Chance is log(seen tokens) = 3.27; the best position-only copier keeps nearly three quarters of that."""
    task = Induction()
    batch = task.batch(512, 9)
    assert loss_of(task, "position_only", batch) > 2.3 > 0.7 * loss_of(task, "seen_tokens", batch)
    walk = Induction(flavour="successor")
    batch = walk.batch(512, 9)
    assert loss_of(walk, "position_only", batch) > 2.6 > 0.95 * loss_of(walk, "seen_tokens", batch)


def test_positions_alone_are_worth_nothing_at_gaps_never_seen():
    near, far = Induction(max_gap=3), Induction(min_gap=5)
    learned = near.predictors()["position_only"]
    batch = far.batch(512, 9)
    target = learned(batch).gather(-1, batch.targets[..., None])[..., 0]
    assert -float(target[batch.scored].mean()) > math.log(64)
    assert loss_of(near, "one_token_match", batch) < 0.002


def test_the_position_only_predictor_is_a_real_best_effort():
    """With one fixed layout it is perfect: the trap that random gaps close."""
    fixed = Induction(vocab=40, seq_len=31, segment=16, repeats=2)
    assert loss_of(fixed, "position_only", fixed.batch(256, 9)) < 0.002
    copier = Induction().predictors()["position_only"]
    weights = copier.weights  # pyright: ignore
    torch.testing.assert_close(weights.sum(1), torch.ones(64), atol=1e-4, rtol=0)
    assert bool((weights[:, :-1].triu(1) == 0).all())


def test_drawing_is_fast():
    """Drawing the examples of a training step takes under a fifth of what the model needs for them."""
    model = Transformer(resolve(Induction())[0])
    tokens = Induction().batch(32, 0).inputs

    def seconds(call) -> float:
        times = []
        for _ in range(10):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return min(times)

    step = seconds(lambda: model(tokens).sum().backward())
    for task in (Induction(), Induction(flavour="successor")):
        assert seconds(lambda task=task: task.batch(32, 0)) < step / 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(seq_len=40), "need 48 positions, seq_len=40 leaves 41"),
        (dict(vocab=32), "33 different tokens are needed and vocab=32; or set replace=True"),
        (dict(min_gap=3, max_gap=2), "max_gap=2 is below min_gap=3"),
        (dict(flavour="successor", symbols=65), "symbols=65 do not fit into vocab=64"),
        (dict(flavour="segments"), "flavour='segments'"),
        (dict(restart=1.0), "restart=1.0"),
    ],
)
def test_settings_without_meaning(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Induction(**settings)


def test_corruptions_that_cannot_be():
    with pytest.raises(ConfigError, match=r"no corruption 'matched'\. Did you mean 'match'\?"):
        Induction().pair(4, 0, "matched")
    with pytest.raises(ConfigError, match="too few sequences for corruption 'successor'"):
        Induction(vocab=16, flavour="successor", seq_len=400).pair(4, 0, "successor")
