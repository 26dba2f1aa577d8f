import json

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import Circuit, ConfigError, Graph
from mechinterp.plots import circuit_graph
from mechinterp.plots.graph import WIDEST
from mechinterp.plots.style import HELPS, HURTS

GRAPH = Graph(2, 2, mlp=True)
NAMES = [str(edge) for edge in GRAPH.edges]
CIRCUIT = Circuit(["input->L0.H1.v", "L0.H1->L1.H0.k", "L1.H0->logits"])


def effects(steps: int = 3) -> xr.DataArray:
    values = np.zeros((steps, len(NAMES)))
    values[-1, NAMES.index("L0.H1->L1.H0.k")] = 4.0
    values[-1, NAMES.index("L1.H0->logits")] = 2.0
    values[-1, NAMES.index("L0.mlp->logits")] = -1.0
    return xr.DataArray(values, dims=["step", "edge"], coords={"step": np.arange(steps) * 100, "edge": NAMES})


def wire(figure, name: str):
    (found,) = [trace for trace in figure.data if trace.name == name]
    return found


def test_width_is_the_effect_and_colour_its_sign():
    figure = circuit_graph(effects(), CIRCUIT)
    strongest, half, harmful = (wire(figure, n) for n in ("L0.H1 → L1.H0.k", "L1.H0 → logits", "L0.mlp → logits"))
    assert strongest.line.width == WIDEST and strongest.meta == "+4"
    assert half.line.width - 0.4 == pytest.approx((WIDEST - 0.4) / 2) and half.line.color == HELPS
    assert harmful.line.width - 0.4 == pytest.approx((WIDEST - 0.4) / 4) and harmful.line.color == HURTS
    assert half.line.dash == "solid" and harmful.line.dash == "dot"


def test_wires_without_effect_are_drawn_only_in_the_circuit():
    names = {trace.name for trace in circuit_graph(effects(), CIRCUIT).data if trace.name}
    assert names == {"input → L0.H1.v", "L0.H1 → L1.H0.k", "L1.H0 → logits", "L0.mlp → logits"}


def test_each_step_is_a_frame_that_changes_only_looks():
    figure = circuit_graph(effects(), CIRCUIT)
    assert [frame.name for frame in figure.frames] == ["0", "100", "200"]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "100", "200"]
    assert figure.layout.sliders[0].active == 2
    number = [trace.name for trace in figure.data].index("L0.H1 → L1.H0.k")
    assert [frame.data[frame.traces.index(number)].line.width for frame in figure.frames] == [0.4, 0.4, WIDEST]
    look = json.loads(figure.frames[0].data[0].to_json())
    assert set(look) == {"type", "line", "opacity", "meta"} and set(look["line"]) == {"width", "color"}


def test_many_checkpoints_are_thinned_to_the_slider():
    figure = circuit_graph(effects(101), CIRCUIT, most_steps=40)
    assert len(figure.frames) == 40 and (figure.frames[0].name, figure.frames[-1].name) == ("0", "10000")


def test_one_moment_needs_no_slider():
    figure = circuit_graph(effects().isel(step=-1, drop=True), CIRCUIT)
    assert not figure.frames and not figure.layout.sliders
    assert wire(figure, "L0.H1 → L1.H0.k").line.width == WIDEST


def test_components_stand_by_layer_bottom_up():
    figure = circuit_graph(effects())
    parts = figure.data[-1]
    height = {str(text).strip("</b>"): y for text, y in zip(parts.text, parts.y, strict=True)}
    order = ["input", "L0.H0", "L0.mlp", "L1.H0", "L1.mlp", "logits"]
    assert [height[name] for name in order] == [0, 1, 2, 3, 4, 5] and height["L0.H1"] == 1


def test_a_head_reads_through_three_ports():
    some = effects()
    for port in "qkv":
        some.loc[{"edge": f"L0.H1->L1.H0.{port}"}] = 1.0
    ends = {wire(circuit_graph(some), f"L0.H1 → L1.H0.{port}").x[-1] for port in "qkv"}
    assert len(ends) == 3


def test_nothing_measured_is_drawn_as_nothing():
    figure = circuit_graph(effects() * np.nan, CIRCUIT)
    assert wire(figure, "L1.H0 → logits").line.width == 0.4 and wire(figure, "L1.H0 → logits").meta == "not measured"


def test_errors_are_shown_as_two_standard_errors():
    figure = circuit_graph(effects(), CIRCUIT, se=xr.ones_like(effects()) * 0.25)
    assert wire(figure, "L1.H0 → logits").meta == "+2 ± 0.5"


def test_a_circuit_of_another_model_is_refused():
    with pytest.raises(ConfigError, match=r"L5\.H0->logits"):
        circuit_graph(effects(), Circuit(["L5.H0->logits"]))
    with pytest.raises(ConfigError, match="layer"):
        circuit_graph(xr.DataArray(np.ones(2), dims=["layer"]))


def test_no_wire_runs_behind_a_component_it_does_not_touch():
    """Every wire of a model with three layers keeps clear of all components but its own two."""
    graph = Graph(3, 4, mlp=True)
    names = [str(edge) for edge in graph.edges]
    figure = circuit_graph(xr.DataArray(np.ones(len(names)), dims=["edge"], coords={"edge": names}), most_edges=1000)
    parts = figure.data[-1]
    wires = [trace for trace in figure.data if trace.name]
    assert len(wires) == len(names)
    for trace in wires:
        ends = [end.removesuffix(".q").removesuffix(".k").removesuffix(".v") for end in trace.name.split(" → ")]
        for name, x, y in zip(parts.text, parts.x, parts.y, strict=True):
            if name.strip("</b>") not in ends:
                near = np.hypot(np.array(trace.x) - x, np.array(trace.y) - y).min()
                assert near > 0.2, (trace.name, name)
