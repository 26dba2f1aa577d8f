"""Claims of a mechanism fail for models that learnt nothing."""

import json
from pathlib import Path

import pytest

from mechinterp.claims import Claim, circuit_names, load_circuit, verify
from mechinterp.cli.app import run
from mechinterp.measures import measure
from mechinterp.tasks import Induction


@pytest.mark.parametrize("name", circuit_names())
def test_no_claim_of_a_mechanism_holds_for_untrained_models(name: str):
    results = verify(name, null="untrained", seeds=[0], workers=1)
    asked = [one.id for one in load_circuit(name).claims if one.purpose == "mechanism" and not one.not_testable]
    assert [one.claim for one in results] == asked and len(asked) >= 10
    assert {one.purpose for one in results} == {"mechanism"} and {one.seeds for one in results} == {(0,)}
    assert [(one.claim, one.measured) for one in results if one.holds] == []


def test_a_claim_that_holds_for_a_null_model_fails(tiny: Path, capsys: pytest.CaptureFixture[str]):
    results = verify(tiny, null="untrained", seeds=2, workers=1)  # loss between 0 and 9: no mechanism
    assert [(one.claim, one.seeds, one.verdict) for one in results] == [
        ("loss", (1000,), "reproduced"),
        ("loss", (1001,), "reproduced"),
    ]
    assert all(one.failed for one in results)
    assert results[0].measured != results[1].measured
    assert run(["verify", str(tiny), "--null", "untrained", "--seeds", "2"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "2 of 2" in text and "HOLDS FOR A NULL MODEL: tiny/loss" in text
    assert run(["verify", str(tiny), "--null", "untrained", "--seeds", "1", "--json"]) == 1
    line = json.loads(capsys.readouterr().out)
    assert (line["purpose"], line["verdict"], line["seeds"]) == ("mechanism", "reproduced", [1000])


def test_models_trained_on_targets_of_other_examples(tiny: Path, tmp_path: Path):
    results = verify(tiny, workers=1, null="shuffled-targets", seeds=[3, 4], out=tmp_path / "runs")
    assert sorted(path.name for path in (tmp_path / "runs" / "tiny").iterdir()) == [
        "small-shuffled-targets-3",
        "small-shuffled-targets-4",
    ]
    record = json.loads((tmp_path / "runs" / "tiny" / "small-shuffled-targets-3" / "run.json").read_text())
    assert record["training"]["null"] == "shuffled-targets"
    assert [(one.claim, one.seeds) for one in results] == [("loss", (3,)), ("loss", (4,))]


def test_untrained_models_are_the_same_in_another_process(tiny: Path):
    alone, shared = (verify(tiny, null="untrained", seeds=[5, 6], workers=workers) for workers in (1, 2))
    assert alone == shared and [one.seeds for one in alone] == [(5,), (6,)]


def test_what_the_models_of_a_claim_are():
    given = dict(id="a", sentence="s", purpose="contrast", model="two", measure="loss", compare=">=", value=0.5)
    assert Claim(**given, against={"model": "one"}).models == {"one", "two"}
    assert Claim(**given, against={"step": "untrained"}).models == {"two"}


@pytest.mark.parametrize("name", ["removal", "circuit_faithfulness", "circuit_quality"])
def test_shares_of_a_gap_below_the_least_are_missing(name: str):
    shipped = load_circuit("induction")
    task, model = shipped.task, shipped.model
    assert isinstance(task, Induction)
    params = dict(corruption="match", examples=16) | {"removal": {}, "circuit_quality": {"nulls": 0}}.get(
        name, {"edges": [str(edge) for edge in shipped.circuit]}
    )

    def share(least: float | None):
        table = measure(name, **params, least_gap=least)(model, task, 1)
        dim = {"circuit_faithfulness": "quantity", "circuit_quality": "score"}.get(name)
        return table.sel({dim: "faithfulness"}) if dim else table

    # The trained model's gap is about 30 nats.
    assert share(None).notnull().all() and share(20.0).equals(share(None))
    assert share(40.0).isnull().all()
