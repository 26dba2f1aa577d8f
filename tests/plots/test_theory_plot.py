"""What theory explains, as a figure: lines, the strip of the nearest predictor, and the split into parts."""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.plots import theory
from mechinterp.plots.style import COLOURS, rgba

STEPS = [0, 10, 100, 1000]


def timeline() -> xr.Dataset:
    values = [[0.01, 0.10, 0.3, 0.50], [0.20, 0.05, 0.1, 0.30], [0.50, 0.30, 0.2, 0.02]]
    coords = {"predictor": ["uniform", "unigram", "bigram"], "step": STEPS}
    data = xr.DataArray(np.array(values), dims=["predictor", "step"], coords=coords)
    return xr.Dataset({"predictor_distance": data, "predictor_distance_se": data / 10})


def test_a_line_for_each_predictor_and_its_band():
    figure = theory(timeline())
    drawn = {trace.name: list(trace.y) for trace in figure.data if trace.name in ("uniform", "unigram", "bigram")}
    assert drawn["bigram"] == [0.5, 0.3, 0.2, 0.02] and len(drawn) == 3
    assert sum(trace.fill == "toself" for trace in figure.data) == 3


def test_the_strip_says_which_predictor_is_nearest_and_when_that_changes():
    strips = [shape for shape in theory(timeline()).layout.shapes if shape.yref == "y domain"]
    assert [shape.fillcolor for shape in strips] == [rgba(COLOURS[i], 0.85) for i in (0, 1, 2)]
    ends = [(shape.x0, shape.x1) for shape in strips]
    # Step 0 stands at 5; from there half-way (on the logarithmic axis) to 10, then to between 100 and 1,000.
    assert np.allclose(ends, [(5, 50**0.5), (50**0.5, 1e5**0.5), (1e5**0.5, 1000)])


def test_explained_and_unexplained_add_up_to_the_distance_from_knowing_nothing():
    parts = {trace.name: np.array(trace.y) for trace in theory(timeline()).data if trace.stackgroup == "parts"}
    assert np.allclose(parts["unexplained"], [0.01, 0.05, 0.1, 0.02])
    assert np.allclose(parts["explained"] + parts["unexplained"], [0.01, 0.10, 0.3, 0.50])


def test_a_measure_that_is_not_there():
    with pytest.raises(ConfigError, match="no 'predictor_distance' over step and predictor"):
        theory(xr.Dataset({"loss": ("step", [1.0])}, {"step": [0]}))
