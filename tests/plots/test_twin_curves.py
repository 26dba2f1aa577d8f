"""The figure of twins: a line per run, dates at their steps, and a misspelt name."""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.plots import twin_curves

STEPS = [0, 10, 100]
CURVES = xr.Dataset(
    {"loss": (("arm", "seed", "step"), np.arange(12.0).reshape(2, 2, 3))},
    {"arm": ["plain", "changed"], "seed": [0, 1], "step": STEPS},
)
DATES = xr.DataArray([[10.0, 40.0], [np.nan, 10.0]], dims=("arm", "seed"), coords={"arm": ["plain", "changed"]})


def test_a_line_for_each_run_and_a_mark_for_each_date():
    figure = twin_curves(CURVES, "loss", DATES, ["x0.5"])
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["changed, seed 1"].y) == [9, 10, 11] and list(lines["plain, seed 0"].x) == [5, 10, 100]
    assert list(lines["dates, plain"].x) == pytest.approx([10, 40, 20])
    assert list(lines["dates, changed"].x) == pytest.approx([10, 10])
    assert any(note.text == "x0.5" for note in figure.layout.annotations)


def test_without_dates_and_with_none_that_came():
    assert len(twin_curves(CURVES, "loss").data) == 4
    assert len(twin_curves(CURVES, "loss", DATES * np.nan).data) == 4


def test_a_curve_that_is_not_there():
    with pytest.raises(ConfigError, match=r"no curve 'los'. Did you mean 'loss'"):
        twin_curves(CURVES, "los")
