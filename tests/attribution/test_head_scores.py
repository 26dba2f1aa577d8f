import math

import pytest
import torch

from mechinterp.attribution.head_scores import (
    duplicate_token_score,
    induction_score,
    previous_token_score,
    successors_of_copies,
    uniform_pattern,
)
from mechinterp.core import ShapeError

ROWS = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.9, 0.1, 0.0, 0.0, 0.0],
        [0.2, 0.7, 0.1, 0.0, 0.0],
        [0.1, 0.2, 0.3, 0.4, 0.0],
        [0.05, 0.15, 0.2, 0.25, 0.35],
    ],
    dtype=torch.float64,
)


def test_previous_token_score_by_hand():
    assert previous_token_score(ROWS[None]).item() == pytest.approx((0.9 + 0.7 + 0.3 + 0.25) / 4)


def test_induction_score_by_hand():
    # a b a c a: query 2 has a copy at 0 (successor 1); query 4 has copies at 0 and 2 (successors 1 and 3).
    tokens = torch.tensor([[0, 1, 0, 2, 0]])
    assert induction_score(ROWS[None], tokens).item() == pytest.approx((0.7 + (0.15 + 0.25)) / 2)


def test_duplicate_token_score_by_hand():
    tokens = torch.tensor([[0, 1, 0, 2, 0]])
    assert duplicate_token_score(ROWS[None], tokens).item() == pytest.approx((0.2 + (0.05 + 0.2)) / 2)


def test_a_token_right_after_its_copy_is_its_own_successor():
    # a a: the second a followed the first one, and it sits at the query itself.
    pattern = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
    assert induction_score(pattern, torch.tensor([[3, 3]])).item() == 0.75
    assert duplicate_token_score(pattern, torch.tensor([[3, 3]])).item() == 0.25


def test_no_target_lies_in_the_future_or_wraps_around():
    tokens = torch.randint(0, 3, (50, 12), generator=torch.Generator().manual_seed(0))
    target = successors_of_copies(tokens)
    assert not target.triu(1).any()
    assert not target[:, :, 0].any()
    for b, q, j in target.nonzero().tolist():
        assert tokens[b, j - 1] == tokens[b, q] and j - 1 < q
    # Two roads: the count from the definition's double loop.
    loop = sum(tokens[b, q] == tokens[b, j] for b in range(50) for q in range(12) for j in range(q))
    assert int(target.sum()) == int(loop)


def test_scores_are_nan_where_undefined():
    distinct = torch.tensor([[0, 1, 2, 3, 4]])
    assert math.isnan(induction_score(ROWS[None], distinct).item())
    assert math.isnan(duplicate_token_score(ROWS[None], distinct).item())
    assert math.isnan(previous_token_score(torch.ones(1, 1, 1)).item())


def test_head_axis_gives_the_same_as_one_head_at_a_time(generator):
    pattern = torch.rand(3, 2, 7, 7, generator=generator).tril()
    tokens = torch.randint(0, 3, (3, 7), generator=generator)
    for head in range(2):
        assert torch.allclose(induction_score(pattern, tokens)[:, head], induction_score(pattern[:, head], tokens))
        assert torch.allclose(previous_token_score(pattern)[:, head], previous_token_score(pattern[:, head]))


def test_uniform_attention_has_the_harmonic_chance():
    chance = previous_token_score(uniform_pattern(5)[None]).item()
    assert chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4)
    assert previous_token_score(uniform_pattern(5, causal=False)[None]).item() == pytest.approx(1 / 5)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"\[1, 2, 3\]"):
        previous_token_score(torch.ones(1, 2, 3))
    with pytest.raises(ShapeError, match=r"tokens \[1, 4\]"):
        induction_score(ROWS[None], torch.zeros(1, 4, dtype=torch.long))
