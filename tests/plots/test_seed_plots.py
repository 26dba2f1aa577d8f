"""Survival curves, variance over seeds and order parameters: what is drawn are the numbers that came."""

import numpy as np
import pytest
import xarray as xr

from mechinterp import plots
from mechinterp.core.errors import ConfigError
from mechinterp.core.statistics import kaplan_meier, variance_over_seeds

STEPS = np.array([0, 1, 10, 100, 1000])


def test_a_survival_curve_falls_from_all_to_what_is_left():
    curve = kaplan_meier([*np.arange(10.0, 29.0), np.nan], last=1000)
    figure = plots.survival({"both_loads": curve})
    (line,) = [one for one in figure.data if one.name == "both loads"]
    assert line.y[0] == 1 and line.y[-1] == pytest.approx(1 / 20) and line.line.shape == "hv"
    assert np.allclose(line.x[1:-1], curve["step"]) and line.x[-1] == 1000
    band = figure.data[1]
    assert band.fill == "tonexty" and np.allclose(band.y[1:-1], curve["low"])
    with pytest.raises(ConfigError, match="20 independent runs"):
        plots.survival({})


def test_the_variance_over_seeds_is_drawn_with_its_peak():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(20, 5)) * np.array([0.1, 0.1, 1.0, 3.0, 0.2])
    spread = variance_over_seeds(xr.DataArray(table, dims=("run", "step"), coords={"step": STEPS}))
    figure = plots.susceptibility({"loss": spread})
    line, dot = figure.data
    assert max(line.y) == 1 and np.argmax(line.y) == 3 and dot.x[0] == 100
    with pytest.raises(ConfigError, match="20 independent runs"):
        plots.susceptibility({})


def test_order_parameters_share_one_axis_and_keep_their_values():
    data = xr.Dataset(
        {
            "loss": ("step", [4.0, 3.0, 2.0, 1.0, 0.0]),
            "hidden_similarity": ("step", [0.2, np.nan, 0.8, 0.4, 0.3]),
            "flat": ("step", np.ones(5)),
        },
        coords={"step": STEPS},
    )
    figure = plots.order_parameters(data)
    names = [one.name for one in figure.data]
    assert names == ["loss", "hidden similarity"]  # what does not move is left out
    assert list(figure.data[0].y) == [1, 0.75, 0.5, 0.25, 0] and figure.data[1].y[2] == 1
    assert figure.data[1].customdata[2][1] == pytest.approx(0.8)
    assert any("0.2 to 0.8" in note.text for note in figure.layout.annotations)
    with pytest.raises(ConfigError, match="no order parameter moves"):
        plots.order_parameters(data[["flat"]])
    with pytest.raises(ConfigError, match="over 'step' alone"):
        plots.order_parameters(xr.Dataset({"loss": ("group", [1.0])}))
