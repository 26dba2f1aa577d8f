import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError, recovery
from mechinterp.plots import faithfulness_curve, findings_table, node_heatmap
from mechinterp.plots.style import INK, PAPER

ROLES = ["first_A", "first_B", "second_A"]


def patched(gap: float) -> xr.Dataset:
    effect = np.zeros((2, 2, 3, 4))
    effect[0, 1, 1] = 2.0
    effect[1, 0, 2] = -0.5
    coords = {"layer": [0, 1], "head": [0, 1], "role": ROLES}
    noise = np.array([0.1, -0.1, 0.1, -0.1])
    return xr.Dataset(
        {
            "effect": xr.DataArray(effect, dims=["layer", "head", "role", "example"], coords=coords),
            "clean": ("example", gap + noise),
            "corrupted": ("example", -noise),
        },
        attrs={"metric": "logit_diff"},
    )


def cell(figure, node: str, column: str) -> float:
    heat = figure.data[0]
    return heat.z[list(heat.y).index(node)][list(heat.x).index(column)]


def test_heatmap_shows_recovery_by_node_and_role():
    figure = node_heatmap(patched(4.0))
    assert cell(figure, "L0.H1", "first<br>B") == pytest.approx(0.5) and cell(figure, "L1.H0", "second<br>A") == -0.125
    expected = recovery(patched(4.0))["recovery"].values.reshape(4, 3)
    assert np.allclose(np.array(figure.data[0].z), expected)
    assert figure.data[0].y[0] == "L0.H0" and "share of the gap" in figure.data[0].hovertemplate


def test_values_are_written_legibly():
    words = node_heatmap(patched(4.0)).data[1]
    look = dict(zip(words.text, words.textfont.color, strict=True))
    assert look == {"0.50": PAPER, "-0.12": INK, "0.00": INK}
    assert dict(zip(zip(words.x, words.y, strict=True), words.text, strict=True))["first<br>B", "L0.H1"] == "0.50"


def test_scale_is_centred_at_zero_and_white_there():
    heat = node_heatmap(patched(4.0)).data[0]
    assert heat.zmin == -heat.zmax == -0.5
    assert dict(heat.colorscale)[0.5] == "#fbfbfb"


def test_without_a_gap_the_plain_effect_is_drawn():
    figure = node_heatmap(patched(0.0))
    assert cell(figure, "L0.H1", "first<br>B") == 2.0 and "logit_diff" in figure.data[0].hovertemplate


def test_residual_stream_by_position_has_no_words_in_a_large_grid():
    data = xr.DataArray(np.ones((4, 64)), dims=["layer", "pos"], coords={"layer": range(4), "pos": range(64)})
    heat = node_heatmap(data, unit="nats").data[0]
    assert list(heat.y) == ["L0", "L1", "L2", "L3"] and heat.showscale
    assert len(node_heatmap(data, unit="nats").data) == 1


def test_foreign_dimensions_are_refused():
    with pytest.raises(ConfigError, match="seed"):
        node_heatmap(xr.DataArray(np.ones((2, 2)), dims=["layer", "seed"]))


def curve() -> xr.Dataset:
    k = np.arange(11)
    return xr.Dataset({"faithfulness": ("k", np.minimum(k / 4, 1.0)), "size": ("k", k // 2)}, coords={"k": k})


def evaluation() -> xr.Dataset:
    null = ("null", np.linspace(-0.1, 0.1, 21))
    scalars = {"live_size": 3, "faithfulness": 0.8, "faithfulness_low": 0.7, "faithfulness_high": 0.85}
    return xr.Dataset({**scalars, "null_faithfulness": null})


def test_curve_is_drawn_over_the_edges_that_remain():
    figure = faithfulness_curve(curve(), fewest=4)
    line, mark = figure.data
    assert list(line.x) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5] and list(line.y) == list(curve()["faithfulness"].values)
    assert (mark.x[0], mark.y[0]) == (2, 1.0)
    assert [(s.x0, s.y0) for s in figure.layout.shapes] == [(0, 0.9), (2, 0)]


def test_the_circuit_stands_with_its_interval_among_random_ones():
    figure = faithfulness_curve(curve(), evaluation())
    _, null, circuit = figure.data
    assert set(null.x) == {3} and list(null.y) == list(evaluation()["null_faithfulness"].values)
    assert (circuit.x[0], circuit.y[0]) == (3, 0.8)
    assert (circuit.error_y.array[0], circuit.error_y.arrayminus[0]) == pytest.approx((0.05, 0.1))
    assert "21 random circuits<br>95% below 9%" in [note.text for note in figure.layout.annotations]


def test_one_mark_is_enough_for_one_circuit():
    figure = faithfulness_curve(curve(), evaluation(), fewest=6)
    assert len(figure.data) == 3 and "<b>the circuit, 3 edges: 80%</b>" in [n.text for n in figure.layout.annotations]
    assert len(faithfulness_curve(curve(), evaluation(), fewest=4).data) == 4


def test_random_circuits_of_every_size_are_a_band_of_their_middle_nine_tenths():
    k = np.arange(11)
    draws = np.linspace(0, 1, 101)[None] * (k[:, None] / 10)
    band, median, line = faithfulness_curve(curve(), xr.DataArray(draws, dims=["k", "null"], coords={"k": k})).data
    assert band.y[10] == pytest.approx(0.95) and band.y[11] == pytest.approx(0.05)
    assert median.y[10] == pytest.approx(0.5) and median.line.dash == "dash"
    assert list(line.y) == list(curve()["faithfulness"].values)


def test_a_curve_without_faithfulness_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.curve"):
        faithfulness_curve(curve().drop_vars("faithfulness"))


def test_findings_are_written_with_interval_and_null():
    rows = [
        {"name": "induction score", "value": 0.8712, "low": 0.85, "high": 0.89, "null": 0.07},
        {"name": "onset", "value": 1234.0, "unit": "steps", "null": (None, 3)},
    ]
    cells = findings_table(rows).data[0].cells.values
    assert [list(column) for column in cells] == [
        ["induction score", "onset"],
        ["0.871", "1,234 steps"],
        ["0.850 to 0.890", ""],
        ["0.0700", "not available to 3 steps"],
    ]
