"""The registry: what is refused, what a measure's key depends on, and that measures draw examples of their own."""

import inspect
from collections.abc import Iterator

import pytest
import xarray as xr

from mechinterp.core import OPTIONS, Circuit, ConfigError, Edge, UnsupportedError, derive_seed
from mechinterp.measures import Measure, as_measure, measure, names, register_measure, registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measures registered by one test are gone in the next."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    yield


def test_a_users_measure_is_called_with_its_own_seed():
    @register_measure("seen")
    def seen(model, task, seed, scale=2.0):
        return xr.DataArray(float(seed), attrs={"scale": scale})

    found = measure("seen", scale=3.0)("model", "task", seed=7)
    assert float(found) == float(derive_seed(7, "measure", "seen"))
    assert found.name == "seen" and found.attrs["scale"] == 3.0 and found.attrs["seed"] == 7
    assert found.attrs["params"] == '{"scale": 3.0}'


def test_measures_of_different_names_share_no_examples():
    for name in ("one", "two"):

        def function(model, task, seed):
            return xr.DataArray(float(seed))

        function.__qualname__ = name
        register_measure(name)(function)
    assert float(measure("one")(None, None, 0)) != float(measure("two")(None, None, 0))


def test_key_depends_on_parameters_that_differ_from_the_defaults():
    assert measure("edge_effects").key == "edge_effects" == measure("edge_effects", examples=64).key
    a, b = measure("edge_effects", examples=8), measure("edge_effects", examples=9)
    assert a.key != b.key and a.key.startswith("edge_effects-") and len(a.key) == len("edge_effects-") + 8
    assert a == measure("edge_effects", examples=8) and a != b and len({a, b, measure("edge_effects", examples=8)}) == 2


def test_parameters_of_measures_go_by_keyword_and_defaults_are_those_of_the_options():
    for name in names():
        parameters = list(inspect.signature(registry.function_of(name)).parameters.values())[3:]
        assert all(item.kind == item.KEYWORD_ONLY for item in parameters), name
    assert measure("removal").params["examples"] == OPTIONS["examples"].default
    quality = measure("circuit_quality").params
    assert (quality["nulls"], quality["share"]) == (OPTIONS["nulls"].default, OPTIONS["share"].default)


def test_edges_may_come_as_circuit_edges_or_text():
    texts = ["input->L0.H0.v", "L0.H0->logits"]
    keys = {
        measure("circuit_faithfulness", edges=edges).key
        for edges in (texts, tuple(texts), Circuit(texts), [Edge.parse(text) for text in texts])
    }
    assert len(keys) == 1


def test_unknown_names_and_parameters_are_one_clear_error():
    with pytest.raises(ConfigError, match=r"no measure 'head_score'\. Did you mean 'head_scores'"):
        measure("head_score")
    with pytest.raises(ConfigError, match=r"no parameter 'metrc'\. Did you mean 'metric'"):
        measure("edge_effects", metrc="kl")
    with pytest.raises(ConfigError, match="'probe' needs target"):
        measure("probe")
    with pytest.raises(ConfigError, match="examples is a object"):
        measure("loss", examples=object())
    with pytest.raises(ConfigError, match="plain numbers"):
        measure("loss", examples=float("nan"))


def test_bad_registrations_are_refused():
    with pytest.raises(
        ConfigError, match=r"a measure named 'loss' exists already \(mechinterp.measures.behaviour.loss\)"
    ):
        register_measure("loss")(lambda model, task, seed: xr.DataArray(0.0))
    with pytest.raises(ConfigError, match=r"takes \(model, seed, task\)"):
        register_measure("odd")(lambda model, seed, task: xr.DataArray(0.0))
    with pytest.raises(ConfigError, match="takes any parameter"):
        register_measure("loose")(lambda model, task, seed, **rest: xr.DataArray(0.0))
    with pytest.raises(ConfigError, match="use letters"):
        register_measure("a/b")
    assert not {"odd", "loose"} & set(names())


def test_registering_the_same_function_again_replaces_it():
    def make(value):
        def again(model, task, seed):
            return xr.DataArray(value)

        return again

    register_measure("again")(make(1.0))
    register_measure("again")(make(2.0))
    assert float(measure("again")(None, None)) == 2.0


def test_failures_name_the_measure():
    @register_measure("refusing")
    def refusing(model, task, seed):
        raise UnsupportedError("the task has no pairs")

    @register_measure("unlabelled")
    def unlabelled(model, task, seed):
        return 3.0

    with pytest.raises(UnsupportedError, match="measure 'refusing' cannot be taken here: the task has no pairs"):
        measure("refusing")(None, None)
    with pytest.raises(ConfigError, match=r"'unlabelled' returned float: return an xarray.DataArray"):
        measure("unlabelled")(None, None)


def test_code_changes_with_the_text_of_the_function():
    @register_measure("edited")
    def edited(model, task, seed):
        return xr.DataArray(1.0)

    before = measure("edited").code

    def changed(model, task, seed):
        return xr.DataArray(2.0)

    registry._REGISTRY["edited"] = changed
    assert measure("edited").code != before


def test_names_and_objects_are_both_measures():
    assert as_measure("loss") == measure("loss") and isinstance(as_measure(measure("loss")), Measure)
