"""Associative recall: queries have the answer of their key, places follow the power law, what a pair changes."""

import pytest
import torch

from mechinterp.core import Batch, ConfigError, metrics
from mechinterp.tasks import Recall

TASKS = {"default": Recall(), "small": Recall(vocab=16, seq_len=20, loads=(2, 4)), "even": Recall(power=1.0)}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_corruption = pytest.mark.parametrize("corruption", Recall.corruptions)


def read(task: Recall, row: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """By hand: the value of each key, and the token at each position after the pairs that is not blank."""
    pairs: dict[int, int] = {}
    place = 0
    while row[place + 1] > task.keys:
        assert 1 <= row[place] <= task.keys and row[place] not in pairs
        pairs[row[place]] = row[place + 1]
        place += 2
        if place + 1 >= len(row):
            break
    return pairs, {q: row[q] for q in range(place, len(row)) if row[q]}


@every_task
def test_queries_have_the_value_of_their_key(task: Recall):
    batch = task.batch(100, 1)
    for row, targets, scored in zip(batch.inputs, batch.targets, batch.scored, strict=True):
        pairs, queries = read(task, row.tolist())
        assert len(pairs) in task.loads and len(set(pairs.values())) == len(pairs)
        assert sorted(queries.values()) == sorted(pairs)  # each key is asked once
        assert scored.nonzero().flatten().tolist() == list(queries)
        for q in range(task.seq_len):
            assert int(targets[q]) == (pairs[queries[q]] if q in queries else -1)


def test_loads_are_mixed_evenly_and_keys_and_values_are_drawn_evenly():
    task = Recall()
    batch = task.batch(4000, 0)
    groups = task.groups(batch)
    assert list(groups) == ["load_8", "load_16"] and torch.equal(groups["load_8"] | groups["load_16"], batch.scored)
    small = groups["load_8"].any(1)
    assert float(small.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert groups["load_8"].sum(1)[small].unique().tolist() == [8]
    assert groups["load_16"].sum(1)[~small].unique().tolist() == [16]
    counts = torch.bincount(batch.inputs[:, :16].flatten(), minlength=64)
    assert int(counts[0]) == 0
    for part in (counts[1:32], counts[32:]):
        assert float((part / part.float().mean() - 1).abs().max()) < 0.12


def test_places_of_queries_follow_the_power_law_and_say_nothing_about_the_answer():
    """The first place drawn has weight g ** (power - 1); with one power of 1, all places alike."""
    task = Recall(loads=(4,), seq_len=24, power=0.5)
    first = task._draw_places(torch.zeros(40_000, dtype=torch.long), torch.Generator().manual_seed(0))[:, 0] - 8
    weight = torch.arange(1, 17) ** -0.5
    torch.testing.assert_close(torch.bincount(first, minlength=16) / 40_000, weight / weight.sum(), atol=0.006, rtol=0)
    batch = task.batch(8000, 0)
    early, late = batch.scored[:, 8:12].float().mean(), batch.scored[:, 20:].float().mean()
    assert float(early) > 1.5 * float(late)
    even = Recall(loads=(4,), seq_len=24, power=1.0).batch(8000, 0).scored[:, 8:].float().mean(0)
    torch.testing.assert_close(even, torch.full((16,), 0.25), atol=0.02, rtol=0)
    # Which pair is asked for is independent of the place: at the first place as at the last.
    batch = Recall(loads=(4,), seq_len=24).batch(8000, 0)
    for place in (8, 23):
        asked = batch.latents["pair"][:, place]
        share = torch.bincount(asked[asked >= 0], minlength=4) / (asked >= 0).sum()
        torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.05, rtol=0)


@every_task
@every_corruption
def test_pairs_differ_only_in_what_the_circuit_reads(task: Recall, corruption: str):
    pair = task.pair(64, 2, corruption)
    clean, twin = pair.clean, pair.corrupted
    assert clean.wrong is not None and twin.wrong is not None and len(pair) == 64
    assert clean.scored.sum(1).tolist() == [1] * 64
    for example in range(64):
        rows = clean.inputs[example].tolist(), twin.inputs[example].tolist()
        at = {name: int(place[example]) for name, place in clean.roles.items()}
        changed = {q for q in range(task.seq_len) if rows[0][q] != rows[1][q]}
        wanted = {"value": {at["value"]}, "query": {at["query"]}}
        assert changed == wanted.get(corruption, {at["key"], at.get("other_key")})
        (pairs, queries), (others, asked) = read(task, rows[0]), read(task, rows[1])
        q = at["query"]
        right, wrong = pairs[queries[q]], others[asked[q]]
        assert right != wrong and bool(clean.scored[example, q])
        assert (int(clean.targets[example, q]), int(clean.wrong[example, q])) == (right, wrong)
        assert (int(twin.targets[example, q]), int(twin.wrong[example, q])) == (wrong, right)
        assert rows[0][at["key"]] == rows[0][q] and rows[0][at["value"]] == right and at["value"] == at["key"] + 1
        if corruption == "value":
            assert wrong not in rows[0]
        else:
            assert sorted(pairs.values()) == sorted(others.values())
            assert rows[1][at["other_key"]] == rows[1][q] and rows[1][at["other_value"]] == wrong


@every_corruption
def test_only_the_lookup_changes_its_mind(corruption: str):
    task = Recall()
    pair = task.pair(64, 0, corruption)
    lookup, blind = task.predictors()["lookup"], task.predictors()["values_in_context"]
    for batch in (pair.clean, pair.corrupted):
        assert float(metrics.accuracy(lookup(batch), batch).mean()) == 1.0
        assert float(metrics.logit_diff(lookup(batch), batch).min()) > 9
    if corruption != "value":
        assert float(metrics.logit_diff(blind(pair.clean), pair.clean).abs().max()) == 0
    assert not bool((task.batch(64, 0).inputs[:, None] == pair.clean.inputs[None]).all(-1).any())


def loss_of(task: Recall, predictor: str, batch: Batch) -> dict[str, float]:
    log_probs = task.predictors()[predictor](batch)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(batch.inputs.shape), atol=1e-4, rtol=0)
    right = log_probs.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return {name: -float(right[mask].mean()) for name, mask in task.groups(batch).items()}


def test_reference_losses():
    """log vocab; log load, for whoever knows the values and not which; nothing."""
    task = Recall()
    batch = task.batch(64, 3)
    assert loss_of(task, "uniform", batch) == pytest.approx({"load_8": 4.1589, "load_16": 4.1589}, abs=1e-3)
    assert loss_of(task, "values_in_context", batch) == pytest.approx({"load_8": 2.0794, "load_16": 2.7726}, abs=2e-3)
    assert loss_of(task, "lookup", batch) == pytest.approx({"load_8": 0.001, "load_16": 0.001}, abs=2e-4)


def test_latents():
    task = TASKS["small"]
    batch = task.batch(32, 1)
    assert set(batch.latents) == set(task.latents)
    for row, answer, number, asks, before in zip(
        batch.inputs.tolist(),
        *(batch.latents[name].tolist() for name in ("answer", "pair", "is_query", "previous_token")),
        strict=True,
    ):
        pairs, queries = read(task, row)
        assert before == [-1, *row[:-1]]
        for q in range(task.seq_len):
            assert asks[q] == (q in queries)
            assert number[q] == (list(pairs).index(row[q]) if q in queries else -1)
            assert answer[q] == (pairs[row[q]] if q in queries else -1)


def test_drawing_is_fast(draws_per_step):
    """Twelve times what training consumes; shape checks, which only tests have, take it down to nine."""
    assert draws_per_step(Recall()) > 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(loads=(8, 22)), "22 pairs and their queries need 66 positions, seq_len=64"),
        (dict(vocab=20), "16 pairs need 16 keys, vocab=20 has 9"),
        (dict(loads=(1,)), "each 2 or more"),
        (dict(loads=(4, 4)), "give different numbers"),
        (dict(power=0.0), "power=0.0"),
    ],
)
def test_settings_without_meaning(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Recall(**settings)
