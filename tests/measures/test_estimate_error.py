import numpy as np
import pytest

from mechinterp.measures import measure
from mechinterp.measures.estimates import compare


def test_a_perfect_estimate_has_no_error():
    exact = np.array([0.3, -2.0, 0.0, 1.0])
    assert compare(exact, exact) == [pytest.approx(1.0), 1.0, 0.0, 0.0]


def test_a_flipped_sign_is_told_and_the_worst_edge_named():
    rank, sign, worst, edge = compare(np.array([0.3, 2.0, 0.0, 1.0]), np.array([0.3, -2.0, 0.0, 1.0]))
    assert rank < 1 and sign == pytest.approx(2 / 3) and worst == pytest.approx(2.0) and edge == 1


def test_nothing_to_compare_is_nan():
    assert np.isnan(compare(np.zeros(3), np.zeros(3))).all()


def test_more_points_on_the_path_do_not_change_what_eap_says():
    """The measure runs on a real task, and only `eap-ig` depends on its steps."""
    from mechinterp.models import ModelConfig, Transformer
    from mechinterp.tasks import Induction

    task = Induction(vocab=20, seq_len=24, segment=4)
    model = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=20, n_ctx=24), seed=1)
    few = measure("estimate_error", examples=8, steps=2)(model, task, 0)
    many = measure("estimate_error", examples=8, steps=8)(model, task, 0)
    assert few.dims == ("estimate", "quantity") and list(few["estimate"].values) == ["eap", "eap-ig", "clean-corrupted"]
    np.testing.assert_allclose(
        few.sel(estimate=["eap", "clean-corrupted"]), many.sel(estimate=["eap", "clean-corrupted"])
    )
    assert float(np.abs(few.sel(estimate="eap-ig") - many.sel(estimate="eap-ig")).max()) > 0
    assert (few.sel(quantity="rank_correlation") > 0.5).all()
