import math

import numpy as np
import pytest
import torch

from mechinterp.core import (
    METRICS,
    Batch,
    ConfigError,
    derive_seed,
    labelled,
    patching_result,
    recovery,
    resolve_metric,
)
from mechinterp.core.metrics import LINEAR_METRICS

LOGITS = torch.tensor([[[2.0, 0.0, 1.0], [9.0, 9.0, 9.0]]])
BATCH = Batch(
    torch.zeros(1, 2, dtype=torch.long),
    torch.tensor([[0, -1]]),
    torch.tensor([[True, False]]),
    wrong=torch.tensor([[2, -1]]),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_diff", 1.0),
        ("margin", 1.0),
        ("logit", 2.0),
        ("centered_logit", 1.0),
        ("accuracy", 1.0),
        ("log_prob", 2 - math.log(math.e**2 + 1 + math.e)),
        ("mse", -(1 + 0 + 1)),
    ],
)
def test_metrics_by_hand(name, value):
    # The second position is not scored: its logits and its missing answer may be anything.
    assert METRICS[name](LOGITS, BATCH, None).item() == pytest.approx(value)


def test_kl_is_zero_for_the_reference_itself_and_negative_elsewhere():
    kl = METRICS["kl"]
    assert kl(LOGITS, BATCH, LOGITS).item() == pytest.approx(0)
    p, q = LOGITS[0, 0].softmax(-1), (-LOGITS)[0, 0].softmax(-1)
    assert kl(-LOGITS, BATCH, LOGITS).item() == pytest.approx(-(p * (p / q).log()).sum().item())
    # A certain reference is no NaN.
    certain = torch.tensor([[[0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0]]])
    assert kl(LOGITS, BATCH, certain).item() == pytest.approx(LOGITS[0, 0].log_softmax(-1)[0].item())
    with pytest.raises(ConfigError, match="reference"):
        kl(LOGITS, BATCH, None)


def test_an_example_without_scored_positions_is_nan():
    empty = Batch(BATCH.inputs, BATCH.targets, torch.zeros(1, 2, dtype=torch.bool), wrong=BATCH.wrong)
    assert METRICS["margin"](LOGITS, empty, None).isnan().all()


def test_a_metric_by_name_or_function():
    assert resolve_metric("kl")[0] == "kl"
    assert resolve_metric(METRICS["mse"])[0] == "mse"
    with pytest.raises(ConfigError, match="Did you mean 'logit_diff'"):
        resolve_metric("logit_dif")


def result(clean, corrupted, effect):
    made = labelled(np.array([effect]), ["edge", "example"], {"edge": ["a"]})
    return patching_result(made, torch.tensor(clean), torch.tensor(corrupted), metric="m")


def test_recovery_divides_by_the_gap():
    made = recovery(result([3.0, 3.2, 2.8], [1.0, 1.1, 0.9], [1.0, 1.2, 0.8]))
    assert made["valid"].item() and made["gap"].item() == pytest.approx(2.0)
    assert made["recovery"].sel(edge="a").item() == pytest.approx(0.5)


def test_recovery_without_a_gap_is_nan_and_says_so():
    made = recovery(result([1.0, -1.0, 0.5], [-1.0, 1.0, 0.4], [1.0, 1.2, 0.8]))
    assert not made["valid"].item() and np.isnan(made["recovery"].item())
    assert made["gap_low"] < 0 < made["gap_high"]


def test_seeds_differ_by_name_and_repeat():
    assert len({derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(1, "a"), derive_seed(0, "a", 1)}) == 4
    assert derive_seed(3, "data", 7) == derive_seed(3, "data", 7)


def test_linear_metrics_add_up_where_logits_do():
    """What `logit_attribution` rests on, and no other metric has."""
    draw = torch.Generator().manual_seed(0)
    targets, wrong = torch.randint(5, (2, 8, 3), generator=draw)
    batch = Batch(targets, targets, torch.ones(8, 3, dtype=torch.bool), wrong)
    parts = torch.randn(2, 8, 3, 5, generator=draw, dtype=torch.float64)
    linear = []
    for name in sorted(set(METRICS) - {"kl"}):
        whole, *pieces = (METRICS[name](logits, batch, None) for logits in (parts.sum(0), *parts))
        linear += [name] if torch.allclose(whole, sum(pieces)) else []
    assert linear == sorted(LINEAR_METRICS)


def test_a_name_with_a_slash_is_one_name():
    uses = [
        ("a/b",),
        ("a", "b"),
        ("a/", "b"),
        ("a", "/b"),
        ("a", "", "b"),
        ("a", "b/"),
        ("a", "b", ""),
        ('["a"', '"b"]'),
    ]
    assert len({derive_seed(0, *names) for names in uses}) == len(uses)
    # Shipped weights and stored results were drawn with these.
    assert derive_seed(0, "a", "b") == 6129914920959480835
    assert derive_seed(1000, "study", "untrained", 3) == 8827701643152511367
