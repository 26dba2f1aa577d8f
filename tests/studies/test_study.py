"""A study of a run whose end is the hand-made induction model: heads, circuit, dates and nulls are known."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from mechinterp.core import Batch, RunError, UnsupportedError, generator
from mechinterp.curves import onset
from mechinterp.known import induction_model
from mechinterp.models import ModelConfig, Transformer
from mechinterp.studies import Study, learning, study
from mechinterp.studies import heads as heads_part
from mechinterp.studies.part import Context, Part, row
from mechinterp.tasks import Induction, Task
from mechinterp.training import Recorder, Run

STEPS = (0, 1, 2, 4, 8, 16, 32, 45, 64, 90, 128, 180)
HAND = induction_model(vocab=16, seq_len=12, inert_heads=1, dtype=torch.float64)
TASK = Induction(vocab=16, seq_len=12, segment=4, repeats=2)
FEW = {"examples": 24, "untrained": 19, "nulls": 12}


class Echo(Task):
    """A task without pairs, latents and predictors: say the token again."""

    name = "echo-for-study"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        tokens = torch.randint(8, (batch, 6), generator=generator(seed, self.name))
        return Batch(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))


class Staged:
    """A run that is untrained up to step 32 and the hand-made model from step 45 on."""

    def __init__(self, path: Path, salt: str = "") -> None:
        self.path, self.steps, self.task, self.salt, self.built = path, STEPS, TASK, salt, 0

    def model(self, step: int | None = None) -> Transformer:
        self.built += 1
        if step is None or step >= 45:
            return HAND.model
        return Transformer(HAND.model.config, seed=step).double()

    def weights_hash(self, step: int) -> str:
        return f"{step}{self.salt}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return Staged(tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="module")
def found(run: Staged) -> Study:
    return study(run, **FEW)


def test_the_heads_are_the_circuits_heads(found: Study):
    assert {str(site) for site in HAND.circuit.components if site.head is not None} == {
        head for group in found.heads.values() for head in group
    }
    assert len(found.heads["previous_token"]) == len(found.heads["induction"]) == 1
    assert found.heads["previous_token"][0].startswith("L0") and found.heads["induction"][0].startswith("L1")
    for score in ("previous_token", "induction"):
        mean, most = found.nulls[score]
        assert mean <= most < 0.6


def test_the_circuit_holds_both_halves_and_does_the_task_alone(found: Study):
    previous, induction = found.heads["previous_token"][0], found.heads["induction"][0]
    edges = {str(edge) for edge in found.circuit}
    assert f"{previous}->{induction}.k" in edges and f"{induction}->logits" in edges
    assert f"input->{induction}.v" in edges and f"input->{previous}.v" in edges
    assert len(edges) == 4  # positions are equal in both runs, and the query's token is: those edges cannot be seen
    assert found.evaluation is not None
    assert float(found.evaluation["faithfulness"]) > 0.9
    assert float(found.evaluation["removal_cost"]) > 0.9
    # Nothing else is live here, so there is no other circuit of four live edges; the table says so.
    assert int(found.evaluation["live_edges"]) == 4 and np.isnan(float(found.evaluation["null_faithfulness_p95"]))
    (note,) = [row["note"] for row in found.findings if row["name"] == "gap recovered by the circuit"]
    assert "holds every live edge" in note


def test_onsets_lie_between_the_right_checkpoints(found: Study):
    assert list(found.onsets) == ["previous token head", "induction head", "loss on repeat"]
    for dated in found.onsets.values():
        assert dated.found and 32 <= dated.step <= 46


def test_findings_have_numbers_nulls_and_places(found: Study):
    names = [row["name"] for row in found.findings]
    assert names[0] == "loss on repeat" and len(set(names)) == len(names)
    table = {row["name"]: row for row in found.findings}
    assert table["order of previous token and induction"]["value"] == "tie"
    assert table["repeat on accuracy, loss and margin alike"]["value"] == "transition"
    recovered = table["gap recovered by the circuit"]
    assert recovered["low"] <= recovered["value"] <= recovered["high"]
    assert recovered["value"] == pytest.approx(1)
    keys = {"name", "value", "low", "high", "null", "unit", "where", "note", "n", "topic", "outcome"}
    assert set(recovered) == keys and recovered["n"] == "24 pairs" and recovered["topic"] == "evidence"
    assert found.found == ("undecided", "not testable at the level 0.01: only 19 untrained models")
    assert table["circuit found"]["value"] == "undecided"
    assert found.verdict.startswith("Whether 4 of 4 live edges are a circuit is undecided: not testable")


def test_what_forms_when_is_told_with_its_correction(found: Study):
    """The hand-made model replaces the untrained one at step 45: edges, leaders and latents begin there."""
    table = {row["name"]: row for row in found.findings}
    previous, induction = found.heads["previous_token"][0], found.heads["induction"][0]
    dates = found.parts["edge-dates"]
    chosen = set(dates["edge"].values[dates["selected"].values])
    assert {f"{previous}->{induction}.k", f"{induction}->logits"} <= chosen
    assert (dates["step"].values[dates["selected"].values] == 45).all()
    edges = table["edges that get an effect"]
    assert (
        edges["value"] == len(chosen) and "false discovery rate 5%" in edges["note"] and "at step 45" in edges["note"]
    )
    assert table["leading head by previous token score"]["value"] == f"{previous} from step 45"
    assert table["leading head by induction score"]["value"] == f"{induction} from step 45"
    read = table["previous token after layer 0, over time"]["value"]
    assert "used from step 45" in read and read.startswith("can be read from step")


def test_order_parameters_are_told_beside_the_loss(found: Study):
    data = found.parts["order-parameters"]
    assert {"loss", "in-context score", "hidden similarity", "largest K-composition, z"} <= set(data.data_vars)
    assert float(data["QK rank minus its start, layer 0"][0]) == 0
    k = data["largest K-composition, z"].values
    assert k[-1] > 10 > k[0]  # by construction the second head reads the first one's output as its key
    rank = next(row for row in found.findings if row["name"] == "QK rank minus its start, layer 0")
    assert rank["null"] == 0


def test_every_claimed_transition_has_its_mirage_check(run: Staged, found: Study):
    """A hand-made head scores exactly 1, which has no log-odds; of softer ones the verdict is known."""
    table = {row["name"]: row for row in found.findings}
    values = [table[f"{name} head on score and log-odds alike"]["value"] for name in ("previous token", "induction")]
    assert "not testable" in values and set(values) <= {"not testable", "transition"}
    steps = np.unique(np.geomspace(1, 1000, 40).round())
    odds = -3 + 6 / (1 + np.exp(-(np.log(steps) - np.log(100)) / 0.1))
    even = -6 + 12 * np.log(steps) / np.log(1000)  # odds that rise evenly in ln t carry the score up at once
    for curve, verdict in ((odds, "transition"), (3 * even, "mixed")):
        score = 1 / (1 + np.exp(-curve))
        scores = xr.DataArray(
            score[:, None, None, None] * np.array([1.0, 0.0]),
            dims=("step", "score", "layer", "head"),
            coords={"step": steps, "score": ["induction"], "layer": [0], "head": [0, 1]},
        )
        dates = {"induction head": onset(scores[:, 0, 0, 0].drop_vars(["score", "layer", "head"]))}
        types = found.parts["heads"].sel(score=["induction"]).assign_attrs(declared=["induction"])
        data = {
            "timeline": scores.to_dataset(name="head_scores"),
            "heads": types,
            "onsets": heads_part.pack_onsets(dates),
        }
        assert dates["induction head"].found
        (row_,) = heads_part.mirage(context(run, data)).rows
        assert row_["value"] == verdict and "log-odds: " in row_["note"]


def context(run: Staged, data) -> Context:
    rest = {"run": run, "model": HAND.model, "task": TASK, "seed": 0, "examples": 8, "untrained": 2, "nulls": 2}
    return Context(**rest, head_types=("induction",), show=lambda *_: None, data=data)


def test_timeline_has_every_measure_at_every_checkpoint(found: Study):
    assert found.timeline["step"].values.tolist() == list(STEPS)
    assert {"head_scores", "loss", "accuracy", "margin", "edge_effects", "node_effects"} <= set(found.timeline)


def test_it_is_loaded_as_it_was_saved(run: Staged, found: Study):
    built = run.built
    for again in (Study.load(run), study(run, **FEW)):
        assert again.verdict == found.verdict and again.findings == found.findings and again.heads == found.heads
        assert again.onsets == found.onsets and again.circuit == found.circuit and again.nulls == found.nulls
        assert again.fewest_edges == found.fewest_edges and again.settings == found.settings
        assert {"timeline", "predictors", "heads", "nodes", "curve", "evaluation"} < set(found.parts)
        assert list(again.parts) == list(found.parts) and list(again.probes) == list(TASK.latents)
        for name, part in found.parts.items():
            xr.testing.assert_identical(again.parts[name], part)
    assert run.built == built


def test_a_stale_damaged_or_missing_study_is_one_clear_error(run: Staged, found: Study, tmp_path: Path):
    with pytest.raises(RunError, match="holds no study yet: run mechinterp"):
        Study.load(Staged(tmp_path))
    with pytest.raises(RunError, match="about other weights"):
        Study.load(Staged(run.path, salt="other"))
    shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
    copy = Staged(tmp_path)
    assert Study.load(copy).findings == found.findings
    curve = tmp_path / "study" / "curve.nc"
    data = bytearray(curve.read_bytes())
    data[-5] ^= 1
    curve.write_bytes(data)
    with pytest.raises(RunError, match=r"curve.nc is damaged or missing; nothing is lost"):
        Study.load(copy)
    assert study(copy, **FEW).findings == found.findings  # measured again
    assert Study.load(copy).verdict == found.verdict
    text = (tmp_path / "study.json").read_text()
    (tmp_path / "study.json").write_text(text.replace('"layout": 5', '"layout": 1'))
    with pytest.raises(RunError, match=r"study.json is from an older or newer version") as error:
        Study.load(copy)
    assert "\n" not in str(error.value)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(RunError, match=r"study.json is damaged"):
        Study.load(copy)


def test_other_settings_are_another_study(run: Staged, found: Study, tmp_path: Path):
    shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
    other = study(Staged(tmp_path), **{**FEW, "nulls": 5})
    assert other.settings["nulls"] == 5
    assert json.loads((tmp_path / "study.json").read_text())["settings"]["nulls"] == 5


def test_an_untrained_model_has_no_head_types_and_no_transition(tmp_path: Path):
    class Untrained(Staged):
        def model(self, step: int | None = None) -> Transformer:
            return Transformer(HAND.model.config, seed=7).double()

    found = study(Untrained(tmp_path), **FEW)
    assert not any(dated.found for dated in found.onsets.values())
    table = {row["name"]: row for row in found.findings}
    assert table["loss on repeat appeared"]["value"] == "no transition"
    assert found.circuit is not None and "Loss on repeat: no transition" in found.verdict
    assert all(len(group) == 0 or np.isfinite(found.nulls[name][1]) for name, group in found.heads.items())


def test_a_part_of_its_own_is_stored_and_its_findings_are_listed(
    run: Staged, found: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A new result is one function; the shelf and the table need no change."""

    def count(context: Context) -> Part:
        heads = len(context.data["heads"]["of_type"].values.ravel())
        return Part({"count": xr.Dataset({"heads": heads})}, [row("heads", heads)])

    shutil.copytree(run.path / "timeline", tmp_path / "timeline")
    parts = (learning.timeline, heads_part.heads, heads_part.onsets, count)
    monkeypatch.setattr(sys.modules["mechinterp.studies.study"], "PARTS", parts)
    mine = study(Staged(tmp_path), **FEW)
    again = Study.load(Staged(tmp_path))
    assert int(again.parts["count"]["heads"]) == 3 * HAND.model.config.n_layers * HAND.model.config.n_heads
    assert again.findings[-1]["name"] == "heads" and again.heads == mine.heads == found.heads


def test_a_task_without_pairs_gets_what_needs_none(tmp_path: Path):
    config = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=8, n_ctx=6)
    with Recorder(tmp_path / "run", model := Transformer(config), Echo(), seed=0) as rec:
        for step in range(10):
            rec(step, loss=1.0)
    del model
    found = study(Run(tmp_path / "run"), **FEW)
    assert found.nodes is found.curve is found.evaluation is found.fewest_edges is None and len(found.circuit) == 0
    assert "edge_effects" not in found.timeline and found.probes == {} and found.predictors == {}
    assert found.verdict.startswith("No intervention is possible") and "Loss on scored: no transition" in found.verdict
    assert Study.load(Run(tmp_path / "run")).verdict == found.verdict


def test_a_foreign_model_is_refused_with_a_reason(run: Staged, tmp_path: Path):
    class Foreign(Staged):
        def model(self, step: int | None = None) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    with pytest.raises(UnsupportedError, match="needs a Transformer, not a Linear: use trace and onset"):
        study(Foreign(tmp_path), **FEW)
