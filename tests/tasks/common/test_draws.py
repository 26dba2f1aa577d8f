"""Weighted draws without replacement, or under a condition: as often as probability says."""

import pytest
import torch

from mechinterp.tasks.common.draws import first_allowed, first_distinct


def test_without_replacement_in_order_of_frequency():
    """Two of three options: each ordered pair as often as drawing one after the other makes it."""
    weight = torch.tensor([6.0, 3.0, 2.0]) / 11
    drawn = first_distinct(weight, 30_000, 2, torch.Generator().manual_seed(0))
    for a in range(3):
        for b in range(3):
            share = float(((drawn[:, 0] == a) & (drawn[:, 1] == b)).float().mean())
            expected = 0.0 if a == b else float(weight[a] * weight[b] / (1 - weight[a]))
            assert share == pytest.approx(expected, abs=0.01)


def test_under_a_condition_by_frequency_among_what_is_allowed():
    weight = torch.tensor([6.0, 3.0, 2.0]) / 11
    barred = torch.arange(30_000)[:, None] % 3
    drawn = first_allowed(weight, lambda stream: stream != barred, 30_000, torch.Generator().manual_seed(0))
    for bar in range(3):
        share = torch.bincount(drawn[barred == bar], minlength=3) / 10_000
        expected = torch.where(torch.arange(3) == bar, 0, weight / (1 - weight[bar]))
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
