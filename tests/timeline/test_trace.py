"""Timelines: numbers equal direct measurement, files are reused, and stale or damaged ones are made again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError, RunError
from mechinterp.measures import measure, register_measure, registry
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Classification, Induction
from mechinterp.timeline import Memory, trace
from mechinterp.timeline.store import as_stored, pack, unpack
from mechinterp.training.files import locked

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_vocab=24, n_ctx=20, positions="rotary")


class FakeRun:
    """What trace needs of a Run; counts the models that it had to build."""

    def __init__(self, path: Path, salt: str = "") -> None:
        self.path, self.steps, self.salt, self.built = path, (0, 1, 10), salt, []
        self.task = Induction(vocab=24, seq_len=20, segment=5, repeats=2)

    def model(self, step: int) -> Transformer:
        self.built.append(step)
        return Transformer(CONFIG, seed=step)

    def weights_hash(self, step: int) -> str:
        return f"{step}{self.salt}"


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    yield


SCORES = measure("head_scores", examples=8)


def test_on_another_task_or_a_variant(run: FakeRun):
    """Kept apart from the Run's own timeline, in which nothing changes."""
    other = Classification(classes=16, labels=4, pairs=4, dim=8)
    config = ModelConfig(n_layers=1, n_heads=1, d_model=17, n_ctx=9, inputs="vectors", d_in=8, d_vocab_out=4)
    run.task, run.model = other, lambda step: Transformer(config, seed=step)  # pyright: ignore
    loss = measure("loss", examples=16)
    own, novel = trace(run, [loss]), trace(run, [loss], on="novel")
    direct = loss(run.model(10), other.variants()["novel"], 0).mean("example")
    assert np.allclose(novel["loss"].sel(step=10), direct)
    assert not np.allclose(novel["loss"], own["loss"])
    assert np.allclose(trace(run, [loss], on=other.variants()["novel"])["loss"], novel["loss"])
    assert np.allclose(trace(run, [loss])["loss"], own["loss"])
    with pytest.raises(ConfigError, match="no variant 'nowel'"):
        trace(run, [loss], on="nowel")


def test_numbers_are_those_of_the_measure(run: FakeRun):
    line = trace(run, [SCORES, measure("loss", examples=16)], seed=4)
    assert line["head_scores"].dims == ("step", "score", "layer", "head")
    assert line["step"].values.tolist() == [0, 1, 10]
    for step in run.steps:
        direct = SCORES(Transformer(CONFIG, seed=step), run.task, 4)
        mean, n = direct.mean("example"), direct.notnull().sum("example")
        assert np.allclose(line["head_scores"].sel(step=step), mean, equal_nan=True)
        assert np.allclose(
            line["head_scores_se"].sel(step=step), direct.std("example", ddof=1) / np.sqrt(n), equal_nan=True
        )
        assert np.array_equal(line["head_scores_n"].sel(step=step), n)
    assert line["loss"].attrs["measure"] == "loss" and line.attrs["seed"] == 4


def test_a_second_trace_reads_what_the_first_wrote(run: FakeRun):
    first = trace(run, [SCORES])
    run.built.clear()
    assert first.identical(trace(run, [SCORES])) and run.built == []
    files = sorted((run.path / "timeline").rglob("*"))
    assert [file.name for file in files if file.is_file()] == ["00000000.nc", "00000001.nc", "00000010.nc"]


def test_in_memory_nothing_is_written_and_nothing_is_measured_twice(run: FakeRun):
    store = Memory()
    first = trace(run, [SCORES], store=store)
    assert not list(run.path.iterdir())
    run.built.clear()
    assert first.identical(trace(run, [SCORES], store=store)) and run.built == []
    assert first.identical(trace(run, [SCORES]))  # files hold the same numbers
    run.built.clear()
    trace(run, [SCORES], keep_examples=True, store=store)
    assert run.built == [0, 1, 10]
    run.built.clear()
    trace(run, [SCORES], seed=1, store=store)
    assert run.built == [0, 1, 10]


def test_an_interrupted_trace_goes_on(run: FakeRun):
    trace(run, [SCORES], steps=[0, 1])
    run.built.clear()
    trace(run, [SCORES])
    assert run.built == [10]


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "foreign"])
def test_a_damaged_file_is_measured_again(run: FakeRun, damage: str):
    first = trace(run, [SCORES])
    (path,) = (run.path / "timeline").rglob("00000001.nc")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        mean = np.ascontiguousarray(first["head_scores"].sel(step=1).values[0, 0, :1], dtype=">f8").tobytes()
        data[data.index(mean) + 3] ^= 0x40
    path.write_bytes({"truncate": data[: len(data) // 2], "empty": b"", "flip": data, "foreign": b"hello"}[damage])
    run.built.clear()
    assert first.identical(trace(run, [SCORES])) and run.built == [1]


def test_other_weights_task_parameters_or_seed_are_measured_anew(run: FakeRun):
    first = trace(run, [SCORES])
    run.built.clear()
    run.salt = "other"
    trace(run, [SCORES])
    assert run.built == [0, 1, 10]
    run.built.clear()
    other = trace(run, [SCORES], seed=1)
    assert run.built == [0, 1, 10] and not np.allclose(other["head_scores"], first["head_scores"], equal_nan=True)
    trace(run, [measure("head_scores", examples=9)])
    run.built.clear()
    run.task = Induction(vocab=24, seq_len=20, segment=4, repeats=2)
    trace(run, [SCORES])
    assert run.built == [0, 1, 10]


def test_an_edited_measure_is_taken_anew(run: FakeRun):
    def version(value):
        source = f"lambda model, task, seed: DataArray({value})"
        function = eval(source, {"DataArray": xr.DataArray})
        return function

    register_measure("mine")(version(1.0))
    assert trace(run, "mine")["mine"].values.tolist() == [1.0] * 3
    registry._REGISTRY["mine"] = version(2.0)
    assert trace(run, "mine")["mine"].values.tolist() == [2.0] * 3


def test_single_examples_on_request(run: FakeRun):
    trace(run, [SCORES])
    run.built.clear()
    line = trace(run, [SCORES], keep_examples=True)
    assert run.built == [0, 1, 10]
    kept = line["head_scores_examples"]
    assert kept.dims == ("step", "score", "layer", "head", "example") and kept.sizes["example"] == 8
    assert np.allclose(kept.mean("example"), line["head_scores"], equal_nan=True, atol=1e-6)
    run.built.clear()
    assert "head_scores_examples" not in trace(run, [SCORES]) and run.built == []


def test_measures_without_examples_count_one(run: FakeRun):
    line = trace(run, measure("copying", permutations=3), keep_examples=True)
    assert (line["copying_n"] == 1).all() and line["copying_se"].isnull().all()
    assert np.isfinite(line["copying"]).all() and "copying_examples" not in line
    run.built.clear()
    trace(run, measure("copying", permutations=3), keep_examples=True)
    assert run.built == []


def test_one_measure_twice_needs_names(run: FakeRun):
    few, many = measure("loss", examples=4), measure("loss", examples=8)
    with pytest.raises(ConfigError, match="'loss' is traced twice"):
        trace(run, [few, many])
    line = trace(run, {"few": few, "many": many})
    assert {"few", "many", "few_se", "many_n"} <= set(line.data_vars)


def test_disagreeing_labels_are_refused_at_the_first_checkpoint(run: FakeRun):
    with pytest.raises(ConfigError, match="label the dimension 'edge' differently"):
        trace(run, [measure("edge_effects", examples=4), measure("composition", draws=3)])
    assert run.built == [0]


def test_errors_and_progress(run: FakeRun):
    with pytest.raises(RunError, match="no checkpoint at step 11"):
        trace(run, [SCORES], steps=[11])
    with pytest.raises(ConfigError, match="no measure 'lss'"):
        trace(run, "lss")
    with pytest.raises(ConfigError, match="at least one measure"):
        trace(run, [])
    told: list[tuple] = []
    trace(run, [SCORES], progress=lambda *where: told.append(where))
    assert told == [("head_scores", 1, 3), ("head_scores", 2, 3), ("head_scores", 3, 3)]


def test_a_trace_that_goes_on_gives_the_same_bytes_as_an_undisturbed_one(run: FakeRun):
    measures = [measure("loss", examples=8), SCORES, measure("edge_effects", examples=4)]
    whole = trace(run, measures)
    shutil.rmtree(run.path / "timeline")
    trace(run, measures, steps=run.steps[:1])
    assert pack(trace(run, measures)) == pack(whole)
    assert pack(trace(run, measures, store=Memory())) == pack(whole)


def test_the_same_weights_in_another_architecture_are_measured_again(run: FakeRun, monkeypatch: pytest.MonkeyPatch):
    trace(run, [SCORES])
    run.built.clear()
    other = SimpleNamespace(model=CONFIG.change(attn_scale=3.0))
    monkeypatch.setattr(run, "config", other, raising=False)
    trace(run, [SCORES])
    assert run.built == [0, 1, 10]
    run.built.clear()
    trace(run, [SCORES])
    assert run.built == []


def test_a_second_process_that_measures_is_refused_and_one_that_reads_is_not(run: FakeRun):
    line = trace(run, [SCORES])
    with locked(run.path / "timeline"):
        xr.testing.assert_identical(trace(run, [SCORES]), line)
        with pytest.raises(RunError, match="another process is writing"):
            trace(run, [measure("loss", examples=4)])
    trace(run, [measure("loss", examples=4)])


def test_coordinates_that_index_nothing_come_back_as_coordinates():
    coords = {"head": [0, 1], "name": ("head", ["L0.H0", "L0.H1"]), "layer": 3}
    data = xr.Dataset({"score": ("head", [0.1, 0.2])}, coords=coords)
    back = unpack(pack(data))
    assert back is not None and set(back.coords) == {"head", "name", "layer"} and list(back.data_vars) == ["score"]
    assert back["score"].set_index(head="name").sel(head="L0.H1") == 0.2
    xr.testing.assert_identical(as_stored(data), back)
