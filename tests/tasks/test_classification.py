"""In-context classification: what is drawn, what each context leaves to know, and what a pair changes."""

import math

import pytest
import torch

from mechinterp.core import Batch, ConfigError, UnsupportedError, metrics
from mechinterp.tasks import Classification

MANY = Classification()
FEW = Classification(classes=64, burstiness=1)
SMALL = Classification(classes=6, labels=5, dim=20, pairs=6, burstiness=3, noise=0.3)
every_task = pytest.mark.parametrize("task", [MANY, FEW, SMALL], ids=["many", "few", "small"])
every_corruption = pytest.mark.parametrize("corruption", Classification.corruptions)


def accuracy(task: Classification, predictor: str, batch: Batch) -> float:
    log_probs = task.predictors()[predictor](batch)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(batch.inputs.shape[:2]), atol=1e-4, rtol=0)
    # Ties count in part, so that guessing is worth what it is worth.
    best = (log_probs == log_probs.amax(-1, keepdim=True)).float()
    right = best.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0] / best.sum(-1)
    return float(right[batch.scored].mean())


def contexts(task: Classification) -> dict[str, Classification]:
    return {"trained": task, **task.variants()}  # pyright: ignore


def class_of(task: Classification, items: torch.Tensor) -> torch.Tensor:
    """The nearest class of each item."""
    flat = items.flatten(0, -2).double()
    means = task.means.double()
    return (2 * flat @ means.T - means.square().sum(-1)).argmax(-1).view(items.shape[:-1])


@every_task
def test_same_seed_same_batch(task: Classification):
    batch, again, other = task.batch(16, 3), task.batch(16, 3), task.batch(16, 4)
    assert torch.equal(batch.inputs, again.inputs) and torch.equal(batch.targets, again.targets)
    assert not bool((batch.inputs[:, None, 0] == other.inputs[None, :, 0]).all(-1).any())
    assert torch.equal(batch.scored.nonzero()[:, 1], torch.full((16,), 2 * task.pairs))
    assert bool((batch.targets[~batch.scored] == -1).all())


@every_task
def test_contexts_show_each_class_as_often_as_said_with_its_own_label(task: Classification):
    batch = task.batch(200, 0)
    who = class_of(task, batch.inputs[:, ::2])
    shown = batch.inputs[:, 1::2]
    assert torch.equal(shown, task.label_vectors[task.label_of[who[:, :-1]]])
    assert torch.equal(batch.targets[:, -1], task.label_of[who[:, -1]])
    for row in who.tolist():
        assert [row[:-1].count(k) for k in set(row[:-1])] == [task.burstiness] * (task.pairs // task.burstiness)
        assert row[-1] in row[:-1]


def test_items_have_the_stated_spread():
    batch = MANY.batch(200, 0)
    items, means = batch.inputs[:, ::2], MANY.means[class_of(MANY, batch.inputs[:, ::2])]
    assert float(items.square().sum(-1).mean()) == pytest.approx(1.0, abs=0.01)
    noise = items * math.sqrt(1.01) - means
    assert float(noise.square().sum(-1).mean()) == pytest.approx(0.01, rel=0.02)
    assert float((noise[:, 0] * noise[:, 1]).sum(-1).mean()) == pytest.approx(0.0, abs=2e-4)
    assert float(MANY.label_vectors.square().sum(-1).mean()) == pytest.approx(1.0, abs=0.15)


def test_labels_are_dealt_out_evenly_and_the_world_is_its_own_seed():
    assert torch.bincount(MANY.label_of).tolist() == [64] * 32
    other = Classification(world=1)
    assert not torch.equal(other.means[:32], MANY.means[:32]) and not torch.equal(other.label_of, MANY.label_of)
    assert torch.equal(Classification(context="novel").label_vectors, MANY.label_vectors)


def test_the_order_in_a_context_tells_nothing():
    """The query's copies stand at any two of the eight places alike: chi squared, 27 degrees of freedom, p = .001."""
    task = Classification(classes=40)
    batch = task.batch(4000, 0)
    who = class_of(task, batch.inputs[:, ::2])
    copies = who[:, :-1] == who[:, -1:]
    assert bool((copies.sum(1) == 2).all())
    counts = (copies.long() * 2 ** torch.arange(8)).sum(1).unique(return_counts=True)[1]
    expected = 4000 / math.comb(8, 2)
    assert len(counts) == 28 and float(((counts - expected) ** 2 / expected).sum()) < 55.5


@pytest.mark.parametrize("zipf", [0.0, 1.0])
def test_classes_come_as_often_as_zipf_says(zipf: float):
    """One class per context, so that drawing without replacement does not bend the frequencies."""
    task = Classification(classes=4, labels=4, dim=16, pairs=1, burstiness=1, zipf=zipf)
    who = class_of(task, task.batch(20_000, 0).inputs[:, 0])
    share = torch.bincount(who, minlength=4) / 20_000
    weight = torch.arange(1, 5.0) ** -zipf
    torch.testing.assert_close(share, weight / weight.sum(), atol=0.012, rtol=0)


def test_each_class_of_a_context_is_asked_for_alike():
    """Two of three classes with weights 1, 1/2, 1/3: the query's is one of the two, the rarer as often."""
    task = Classification(classes=3, labels=3, pairs=2, burstiness=1, zipf=1.0)
    who = class_of(task, task.batch(20_000, 0).inputs[:, -1])
    weight = torch.tensor([6.0, 3.0, 2.0]) / 11
    shown = weight.clone()
    for a in range(3):
        shown += weight[a] * torch.where(torch.arange(3) == a, 0, weight / (1 - weight[a]))
    torch.testing.assert_close(torch.bincount(who) / 20_000, shown / 2, atol=0.012, rtol=0)


def test_what_each_context_leaves_to_know():
    """L = 32, N / B = 4 labels in a context: guessing among those is right with 1/4 and a little for equal labels."""
    guess = 0.25 + 0.75 / 32
    known = {
        "trained": (1.0, 1.0, guess),
        "novel": (1.0, 1 / 32, guess),
        "swapped": (1.0, 0.0, guess),
        "absent": (0.0, 1.0, 0.0),
    }
    found = contexts(MANY)
    assert set(found) == set(known)
    for name, (neighbour, weights, seen) in known.items():
        batch = found[name].batch(250, 5)
        assert accuracy(MANY, "uniform", batch) == pytest.approx(1 / 32, abs=1e-5)
        assert accuracy(MANY, "nearest_neighbour", batch) == pytest.approx(neighbour, abs=1e-6), name
        assert accuracy(MANY, "in_weights", batch) == pytest.approx(weights, abs=0.04 if name == "novel" else 1e-6), (
            name
        )
        probs = MANY.predictors()["context_labels"](batch).exp()[:, -1].gather(1, batch.targets[:, -1:])
        assert float(probs.mean()) == pytest.approx(seen, abs=0.02), name


def test_novel_classes_are_new_in_every_sequence():
    items = MANY.variants()["novel"].batch(64, 0).inputs[:, ::2]
    assert float(torch.cdist(items, MANY.means).min()) > 0.6
    across = torch.cdist(items[:32].flatten(0, 1), items[32:].flatten(0, 1))
    assert float(across.min()) > 0.6


def check_latents(task: Classification, batch: Batch, novel: bool) -> None:
    latents = {name: value.tolist() for name, value in batch.latents.items()}
    assert set(latents) == set(task.latents)
    for row in range(len(batch)):
        items, labels = batch.inputs[row, ::2], batch.inputs[row, 1::2]
        near = torch.cdist(items, items) < torch.cdist(items, items).max() / 2
        shown = torch.cdist(labels, task.label_vectors).argmin(-1).tolist()
        own = [-1] * len(items) if novel else task.label_of[class_of(task, items)].tolist()
        for p in range(task.seq_len):
            item = p // 2
            earlier = [shown[j] for j in range(item) if near[item, j]]
            assert latents["is_label"][row][p] == p % 2
            assert latents["label"][row][p] == (shown[item] if p % 2 else -1)
            assert latents["in_context_label"][row][p] == (earlier[0] if earlier and p % 2 == 0 else -1)
            assert latents["in_weights_label"][row][p] == (-1 if p % 2 else own[item])


@every_task
@pytest.mark.parametrize("context", ["trained", "novel", "swapped"])
def test_latents_by_hand(task: Classification, context: str):
    made = contexts(task)[context]
    check_latents(made, made.batch(5, 1), context == "novel")
    for corruption in task.corruptions:
        check_latents(made, made.pair(3, 1, corruption).corrupted, context == "novel")


@every_task
@every_corruption
@pytest.mark.parametrize("context", ["trained", "novel"])
def test_pairs_differ_only_in_what_the_circuit_reads(task: Classification, corruption: str, context: str):
    pair = contexts(task)[context].pair(64, 2, corruption)
    clean, twin, rows = pair.clean, pair.corrupted, torch.arange(64)
    assert clean.wrong is not None and twin.wrong is not None and len(pair) == 64
    query, copies = task.seq_len - 1, range(1, task.burstiness + 1)
    assert torch.equal(clean.role("query"), torch.full((64,), query))
    changed = [set(row.nonzero().flatten().tolist()) for row in (clean.inputs != twin.inputs).any(-1)]
    if corruption == "query":
        assert changed == [{query}] * 64
    else:
        names = [f"{side}_{corruption}_{i}" for side in ("right", "other") for i in copies]
        assert changed == [{int(clean.role(name)[row]) for name in names} for row in range(64)]
        for i in copies:
            right, other = clean.role(f"right_{corruption}_{i}"), clean.role(f"other_{corruption}_{i}")
            assert torch.equal(clean.inputs[rows, right], twin.inputs[rows, other])
            assert torch.equal(clean.inputs[rows, other], twin.inputs[rows, right])
    for i in copies:
        for side, answer in (("right", clean.targets), ("other", clean.wrong)):
            item, label = clean.role(f"{side}_item_{i}"), clean.role(f"{side}_label_{i}")
            assert torch.equal(label, item + 1)
            assert torch.equal(clean.inputs[rows, label], task.label_vectors[answer[:, -1]])
    assert bool((clean.targets != clean.wrong)[:, -1].all())
    assert torch.equal(clean.targets, twin.wrong) and torch.equal(clean.wrong, twin.targets)
    assert torch.equal(twin.latents["in_context_label"][:, -1], twin.targets[:, -1])
    ideal = task.predictors()["nearest_neighbour"]
    for batch in (clean, twin):
        assert float(metrics.logit_diff(ideal(batch), batch).min()) > 8
    blind = task.predictors()["in_weights"]
    if corruption != "query":
        assert torch.equal(blind(clean)[:, -1], blind(twin)[:, -1])


def test_pairs_and_batches_of_one_seed_share_no_sequence():
    batch, pair = MANY.batch(8, 0), MANY.pair(8, 0)
    assert not bool((batch.inputs[:, None] == pair.clean.inputs[None]).flatten(2).all(-1).any())
    assert torch.equal(pair.clean.inputs, MANY.pair(8, 0).clean.inputs)


def test_predictors_read_only_what_comes_before():
    batch = MANY.batch(32, 0)
    changed = batch.inputs.clone()
    changed[:, 9:] = changed[:, 9:].roll(1, 0)
    later = Batch(changed, batch.targets, batch.scored)
    for name, predict in MANY.predictors().items():
        torch.testing.assert_close(predict(batch)[:, :9], predict(later)[:, :9], msg=name)
        if name != "in_weights":
            torch.testing.assert_close(predict(batch)[:, 0].exp(), torch.full((32, 32), 1 / 32), msg=name)


def test_the_preset_fits_and_gives_one_logit_per_label():
    from mechinterp.models import ModelConfig, Transformer

    for task in (MANY, Classification(dim=120)):
        config = ModelConfig(**task.preset().model)
        assert Transformer(config)(task.batch(2, 0).inputs).shape == (2, 17, 32)


@pytest.mark.parametrize("task", [MANY, FEW], ids=["many", "few"])
def test_drawing_is_fast(task: Classification, draws_per_step):
    assert draws_per_step(task) > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(burstiness=3), "burstiness=3 does not divide pairs=8"),
        (dict(classes=3), "4 classes are needed for a sequence, and classes=3"),
        (dict(classes=4, context="absent"), "5 classes are needed"),
        (dict(labels=4, context="absent"), "needs a label that none of the 4 classes shown has"),
        (dict(context="old"), "context='old'"),
    ],
)
def test_settings_without_meaning(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Classification(**settings)


def test_what_has_no_pairs_or_variants():
    with pytest.raises(ConfigError, match=r"Did you mean 'label'\?"):
        MANY.pair(4, 0, "labels")
    with pytest.raises(UnsupportedError, match="has no pairs: the context must show"):
        MANY.variants()["absent"].pair(4, 0)  # pyright: ignore
    with pytest.raises(UnsupportedError, match="has no pairs: the context must show"):
        Classification(burstiness=8).pair(4, 0)
    assert set(Classification(classes=4).variants()) == {"novel", "swapped"}
