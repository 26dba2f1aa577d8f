import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.core.statistics import t_interval
from mechinterp.plots import probe_bars


def result(effect: bool = True) -> xr.Dataset:
    parts = {
        "score": ("layer", [0.9, 0.4]),
        "score_low": ("layer", [0.85, -np.inf]),
        "score_high": ("layer", [0.92, 0.5]),
        "untrained": ("layer", [0.2, 0.3]),
        "shuffled": ("layer", [0.1, 0.1]),
        "majority": 0.05,
        "effect": (("layer", "example"), np.array([[1.0, 3.0], [0.0, 0.0]]) * (1 if effect else np.nan)),
        "effect_random": (("layer", "example"), np.zeros((2, 2))),
    }
    attrs = {"target": "previous_token", "site": "resid_post", "metric": "log_prob", "probe": "logistic, accuracy"}
    return xr.Dataset(parts, coords={"layer": [0, 1]}, attrs=attrs)


def test_scores_intervals_and_nulls_are_drawn_at_their_values():
    figure = probe_bars(result())
    bars, *marks = figure.data[:4]
    assert list(bars.y) == ["previous token<br>after layer 0", "previous token<br>after layer 1"]
    assert list(bars.x) == [0.9, 0.4]
    assert list(bars.error_x.arrayminus) == pytest.approx([0.05, 0.0])
    assert list(bars.error_x.array) == pytest.approx([0.02, 0.1])
    assert [list(mark.x) for mark in marks] == [[0.2, 0.3], [0.1, 0.1], [0.05, 0.05]]


def test_what_erasing_costs_stands_below_beside_random_directions():
    figure = probe_bars({"previous_token": result(), "is_repeat": result()})
    effect, random = figure.data[4:]
    assert list(effect.x) == [2.0, 0.0, 2.0, 0.0] and list(random.x) == [0.0] * 4
    low, high = t_interval(np.array([1.0, 3.0]))
    assert (effect.error_x.arrayminus[0], effect.error_x.array[0]) == pytest.approx((2 - low, high - 2))
    assert figure.layout.xaxis2.title.text == "log prob lost by erasing it"


def test_without_erasure_there_is_one_panel():
    figure = probe_bars(result(effect=False))
    assert len(figure.data) == 4 and figure.layout.xaxis.title.text == "held-out accuracy"


def test_a_foreign_result_is_refused():
    with pytest.raises(ConfigError, match="score"):
        probe_bars(result().drop_vars("score"))
