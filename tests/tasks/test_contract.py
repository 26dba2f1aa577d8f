"""`check`: shipped tasks keep the contract, five odd ones too, and every broken promise is named."""

from dataclasses import replace

import pytest
import torch
from odd_tasks import ODD_TASKS, NoPredictors, OneCorruption

from mechinterp import tasks
from mechinterp.core import Batch, ConfigError, Pair
from mechinterp.tasks import check, from_file

SHIPPED = ("classification", "induction", "markov", "modular", "moving_sum", "recall", "regression")
VARIANTS = [(name, variant) for name in SHIPPED for variant in ("", *tasks.get(name).variants())]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_shipped_tasks_keep_the_contract(name, variant):
    task = tasks.get(name)
    offer = check(task.variants()[variant] if variant else task)
    assert offer.preset and offer.groups and offer.predictors and set(offer.trivial) <= set(offer.predictors)
    assert variant or offer.corruptions == task.corruptions != ()


@pytest.mark.parametrize("task", ODD_TASKS, ids=lambda task: task.name)
def test_odd_tasks_keep_the_contract(task):
    offer = check(task)
    assert offer.groups == ("scored",) and offer.preset
    assert offer.corruptions == {"odd-no-pairs": (), "odd-vectors": ("first",), "odd-one-corruption": ("first",)}.get(
        task.name, ("all",)
    )


def _changed(name: str, **methods: object) -> tasks.Task:
    return type(f"Broken{name}", (OneCorruption,), {"name": f"broken-{name}", "__module__": __name__, **methods})()


def _batch(change):
    return lambda self, batch=64, seed=0: change(NoPredictors.batch(self, batch, seed))


def _pair(change):
    def pair(self, batch=64, seed=0, corruption="first"):
        return change(OneCorruption.pair.__wrapped__(self, batch, seed))

    return pair


def _global(self, batch=64, seed=0):
    return self._of(torch.randint(7, (batch, 6)))


def _default(self, batch=64, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return self._of((torch.rand(batch, 6, generator=gen) * 7).long())


def _same_sides(pair: Pair) -> Pair:
    return Pair(pair.clean, pair.clean, pair.corruption)


def _all_scored(pair: Pair) -> Pair:
    def side(batch: Batch) -> Batch:
        everywhere = batch.scored.roll(1, 1) | batch.scored
        return replace(batch, scored=everywhere, targets=batch.targets.clamp(min=0))

    return Pair(side(pair.clean), side(pair.corrupted), pair.corruption)


BROKEN = {
    "size": ({"batch": _batch(lambda batch: batch[:1])}, r"batch\(16\) draws 1 examples"),
    "global": ({"batch": _global}, "draws from torch's global generator"),
    "default": ({"batch": _default}, "under torch.set_default_dtype"),
    "seedless": ({"batch": lambda self, batch=64, seed=0: NoPredictors.batch(self, batch, 5)}, "from different seeds"),
    "unanswered": (
        {"batch": _batch(lambda batch: replace(batch, targets=torch.full_like(batch.targets, -1)))},
        "no answer at a scored position",
    ),
    "unscored": (
        {"batch": _batch(lambda batch: replace(batch, scored=torch.zeros_like(batch.scored)))},
        "scores no position",
    ),
    "bytes": ({"batch": _batch(lambda batch: replace(batch, inputs=batch.inputs.int()))}, "are no tokens"),
    "same": ({"pair": _pair(_same_sides)}, "the same on both sides"),
    "unchanged": ({"pair": _pair(_all_scored)}, "leaves as it is"),
    "wrong": (
        {"pair": _pair(lambda pair: replace(pair, clean=replace(pair.clean, wrong=pair.clean.targets)))},
        "names the right answer as the wrong one",
    ),
    "roles": (
        {"pair": _pair(lambda pair: replace(pair, corrupted=replace(pair.corrupted, roles={})))},
        "has other roles",
    ),
    "latents": ({"latents": property(lambda self: {"lost": 3})}, "latent 'lost' is in no batch"),
    "trivial": ({"trivial": ("none",)}, "calls 'none' trivial"),
    "logits": (
        {"predictors": lambda self: {"even": lambda batch: torch.zeros(*batch.inputs.shape, 7)}},
        "returns no log probabilities",
    ),
    "groups": ({"groups": lambda self, batch: {"all": batch.targets}}, "group 'all' is no mask"),
    "raises": ({"groups": lambda self, batch: {"all": batch.missing}}, "AttributeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name):
    methods, text = BROKEN[name]
    with pytest.raises(ConfigError, match=text) as caught:
        check(_changed(name, **methods))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_predictors_do_not_depend_on_the_default_type(name):
    plain = {key: predict(tasks.get(name).batch(8, 1)) for key, predict in tasks.get(name).predictors().items()}
    torch.set_default_dtype(torch.float64)
    try:
        task = tasks.get(name)
        again = {key: predict(task.batch(8, 1)) for key, predict in task.predictors().items()}
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(again[key].dtype == value.dtype and again[key].equal(value) for key, value in plain.items())


@pytest.mark.parametrize("name", SHIPPED)
def test_draws_do_not_depend_on_autocast(name):
    task = tasks.get(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [task.batch(8, 1).targets, task.pair(8, 1).clean.inputs, task.training_batch(8, 1, 2).targets]
    outside = [task.batch(8, 1).targets, task.pair(8, 1).clean.inputs, task.training_batch(8, 1, 2).targets]
    assert all(a.dtype == b.dtype and a.equal(b) for a, b in zip(inside, outside, strict=True))


def test_a_file_that_defines_no_task_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_task_here.py").write_text("x = 1\n")
    (tmp_path / "raises_here.py").write_text("1 / 0\n")
    (tmp_path / "json.py").write_text("x = 1\n")
    for file, text in (
        ("no_task_here.py", "defines no task"),
        ("raises_here.py:X", "cannot be run: ZeroDivisionError"),
        ("json.py", "a module named 'json' exists already"),
        ("missing.py:X", "no Python file"),
    ):
        with pytest.raises(ConfigError, match=text):
            from_file(str(tmp_path / file))
