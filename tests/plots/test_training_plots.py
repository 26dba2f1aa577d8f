import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.curves.result import Onset
from mechinterp.plots import head_scores, loss_curve
from mechinterp.plots.style import COLOURS, FAINT, HURTS

STEPS = [0, 1, 10, 100, 1000]


def dated(step: float, verdict: str = "transition") -> Onset:
    return Onset(verdict, "", step, step * 0.8, step * 1.25, 0.95, 0.1, 0.0, 1.0, 0.0, 1.0)  # pyright: ignore


def metrics() -> xr.Dataset:
    loss = ("step", [4.0, 4.0, 3.0, 0.5, 0.1])
    return xr.Dataset({"loss": loss, "loss_fresh": ("step", [4.1] * 5), "lr": ("step", [1.0] * 5)}, {"step": STEPS})


def timeline() -> xr.Dataset:
    values = np.zeros((5, 2, 2, 2))
    values[:, 0, 0, 1] = [0.0, 0.0, 0.2, 0.9, 0.9]
    values[:, 1, 1, 0] = [0.0, 0.0, 0.0, 0.4, 0.8]
    coords = {"step": STEPS, "score": ["previous_token", "induction"], "layer": [0, 1], "head": [0, 1]}
    data = xr.DataArray(values, dims=["step", "score", "layer", "head"], coords=coords)
    return xr.Dataset({"head_scores": data, "head_scores_se": data * 0 + 0.05})


def lines(figure, name: str) -> list:
    return [trace for trace in figure.data if trace.name == name]


def words(figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def test_loss_draws_every_group_and_nothing_else():
    figure = loss_curve(metrics())
    assert [trace.name for trace in figure.data] == ["loss", "fresh"]
    assert list(figure.data[0].y) == [4.0, 4.0, 3.0, 0.5, 0.1]
    assert list(figure.data[0].x) == [0.5, 1, 10, 100, 1000] and list(figure.data[0].customdata) == STEPS
    assert {"<b>loss</b>", "<b>fresh</b>"} <= set(words(figure))


def test_a_group_that_is_the_loss_is_drawn_once():
    doubled = metrics().assign(loss_repeat=metrics()["loss"])
    assert [trace.name for trace in loss_curve(doubled).data] == ["fresh", "repeat"]


def test_onsets_are_marked_unless_there_was_no_transition():
    figure = loss_curve(metrics(), onsets={"seen": dated(50), "plain": 20, "never": dated(70, "no transition")})
    at = {shape.x0 for shape in figure.layout.shapes if shape.type == "line" and shape.xref != "x domain"}
    assert at == {50, 20}
    assert [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"] == [(40, 62.5)]
    assert {"seen: step 50", "plain: step 20"} <= set(words(figure)) and not any("never" in w for w in words(figure))


def test_predictors_are_dashed_lines_at_their_loss():
    figure = loss_curve(metrics(), predictors={"uniform": 4.16})
    (line,) = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert line.y0 == line.y1 == 4.16 and line.line.dash == "dash" and "uniform" in words(figure)


def test_long_metrics_are_thinned_but_keep_both_ends():
    steps = np.arange(20_000)
    figure = loss_curve(xr.Dataset({"loss": ("step", steps * 1.0)}, {"step": steps}))
    assert (
        len(figure.data[0].x) <= 400 and figure.data[0].customdata[0] == 0 and figure.data[0].customdata[-1] == 19_999
    )


def test_no_loss_is_an_error_that_names_what_came():
    with pytest.raises(ConfigError, match="got lr"):
        loss_curve(metrics()[["lr"]])


def test_a_chosen_head_has_one_colour_in_all_panels_and_a_label_where_it_rises():
    figure = head_scores(timeline(), chosen=["L0.H1", "L1.H0"])
    for head, colour in zip(["L0.H1", "L1.H0"], COLOURS, strict=False):
        assert [trace.line.color for trace in lines(figure, head)] == [colour] * 2
        (label,) = [note for note in figure.layout.annotations if note.text == head]
        assert label.yref == {"L0.H1": "y", "L1.H0": "y2"}[head]
    assert [trace.line.color for trace in lines(figure, "L1.H1")] == [FAINT] * 2
    assert list(lines(figure, "L0.H1")[0].y) == [0, 0, 0.2, 0.9, 0.9]


def test_null_band_lies_in_its_panel():
    figure = head_scores(timeline(), nulls={"induction": (0.02, 0.07)})
    (band,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (band.y0, band.y1, band.yref) == (0.02, 0.07, "y2")
    (line,) = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert line.y0 == 0.07 and line.line.dash == "dash"


def test_an_unknown_head_is_named():
    with pytest.raises(ConfigError, match=r"L3\.H9.*L0\.H0 to L1\.H1"):
        head_scores(timeline(), chosen=["L3.H9"])
    with pytest.raises(ConfigError, match="no 'other'"):
        head_scores(timeline(), name="other")


def test_blue_and_orange_lead_the_lines():
    assert COLOURS[1] == HURTS
