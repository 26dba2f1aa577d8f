import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mechinterp.plots as plots
from mechinterp.plots import style


def test_importing_and_drawing_leave_plotly_alone():
    before = (pio.templates.default, sorted(pio.templates))
    figure = style.base(height=200)
    assert (pio.templates.default, sorted(pio.templates)) == before == ("plotly", before[1])
    assert figure.layout.template.layout.font.family == style.FONT
    assert go.Figure().layout.template.layout.font.family is None
    assert set(plots.__all__) <= set(dir(plots))


def test_step_zero_stands_left_of_the_first_step_and_says_so():
    axis = style.StepAxis([0, 4, 40, 400])
    assert axis([0, 4, 40, 400]).tolist() == [2.0, 4.0, 40.0, 400.0]
    layout = axis.layout()
    assert layout["type"] == "log" and layout["tickvals"][0] == 2.0 and layout["ticktext"][0] == "0"
    assert layout["ticktext"][-1] == "400" and axis.range[0] < np.log10(2) and axis.range[1] > np.log10(400)
    assert "0" not in style.StepAxis([4, 400]).layout()["ticktext"]


def test_an_untrained_run_still_has_an_axis():
    assert style.StepAxis([0])([0]).tolist() == [0.5]
    assert style.StepAxis([0]).range[0] < style.StepAxis([0]).range[1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_keep_order_distance_and_limits(values: list[float]):
    moved = style.spread(values, 0.1, low=0.0, high=1.0)
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(moved)[order]) >= 0.1 - 1e-9)
    assert min(moved) >= -1e-9 and max(moved) <= 1 + 1e-9


def test_labels_far_apart_stay():
    assert style.spread([0.9, 0.1], 0.2) == pytest.approx([0.9, 0.1])


def test_band_is_two_standard_errors_wide():
    figure = style.base(height=200)
    style.add_line(figure, np.array([1.0, 2.0]), np.array([1.0, 3.0]), "a", style.INK, se=np.array([0.5, 0.25]))
    band, line = figure.data
    assert list(band.y) == [2.0, 3.5, 2.5, 0.0] and list(line.y) == [1.0, 3.0]


def test_colours_are_told_apart_on_white():
    """Every line colour has at least 3:1 contrast with the paper (WCAG's rule for graphics)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in (*style.COLOURS, style.HELPS, style.HURTS, style.NULL):
        assert 1.05 / (luminance(colour) + 0.05) >= 3
    for colour in (style.INK, style.MUTED):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5
