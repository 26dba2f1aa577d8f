"""`patch`, `estimate`, `probe` and `study` print what the API returns."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import mechinterp as mi
from mechinterp.cli import run
from mechinterp.cli.options import Chosen

Output = Callable[..., dict]
Capture = pytest.CaptureFixture[str]
TWO = ("input->L0.H1.v", "L0.H0->logits")


def means(rows: list[dict]) -> list[float]:
    return [row["effect"] for row in rows]


def test_patch_prints_the_nodes_of_the_api(folder: Path, output: Output, tmp_path: Path):
    file = tmp_path / "nodes.nc"
    words = ("patch", folder, "--site", "z", "--at", "role", "--examples", "12", "--seed", "4", "--step", "3")
    result = output(*words, "--out", file)
    chosen = Chosen("patch", str(folder), 3, {"examples": 12, "seed": 4})
    nodes = mi.patch_nodes(chosen.model, chosen.pair, site="z", at="role")
    assert result["direction"] == nodes.attrs["direction"] == "denoise" and result["step"] == 3
    assert result["dims"] == ["layer", "head", "role"] and result["metric"] == "logit_diff"
    expected = nodes["effect"].mean("example")
    for row in result["effects"]:
        place = {dim: row[dim] for dim in result["dims"]}
        assert row["effect"] == pytest.approx(float(expected.sel(place)), rel=1e-4, abs=1e-7)
        assert row["low"] <= row["effect"] <= row["high"]
    assert result["file"] == str(file)
    np.testing.assert_array_equal(xr.open_dataset(file)["effect"], nodes["effect"])


def test_patch_prints_the_edges_of_the_api(folder: Path, output: Output):
    words = ("--examples", "12", "--seed", "4")
    some = output("patch", folder, *words, "--edge", TWO[0], "--edge", TWO[1], "--ablation", "zero")
    chosen = Chosen("patch", str(folder), None, {"examples": 12, "seed": 4})
    edges = mi.patch_edges(chosen.model, chosen.pair, edges=TWO, ablation="zero")
    assert [row["edge"] for row in some["effects"]] == list(TWO)
    assert means(some["effects"]) == pytest.approx(edges["effect"].mean("example").values, rel=1e-4, abs=1e-7)
    assert (some["direction"], some["ablation"], some["seed"], some["step"]) == ("noise", "zero", 4, 6)
    every = output("patch", folder, *words, "--edges", "--inputs", "split")
    assert len(every["effects"]) == len(chosen.model.config.graph("split").edges)
    with pytest.raises(mi.core.ConfigError, match="denoise"):
        mi.patch_edges(chosen.model, chosen.pair, direction="denoise", ablation="zero")
    assert run(["patch", str(folder), "--edges", "--direction", "denoise", "--ablation", "zero"]) == 2


def test_the_table_shows_the_largest_effects_first(folder: Path, output: Output, capsys: Capture):
    rows = output("patch", folder, "--edges", "--examples", "12")["effects"]
    largest = max(rows, key=lambda row: abs(row["effect"]))["edge"]
    assert run(["patch", str(folder), "--edges", "--examples", "12", "--top", "1"]) == 0
    text = capsys.readouterr().out
    assert largest in text and f"1 of {len(rows)} rows" in text
    assert sum("->" in line for line in text.splitlines()) == 1


def test_estimate_prints_the_estimates_of_the_api(folder: Path, output: Output):
    words = ("--examples", "12", "--seed", "4")
    result = output("estimate", folder, *words, "--edges", "--method", "eap-ig", "--steps", "3")
    chosen = Chosen("estimate", str(folder), None, {"examples": 12, "seed": 4})
    edges = mi.estimate_edges(chosen.model, chosen.pair, method="eap-ig", steps=3)
    assert means(result["effects"]) == pytest.approx(edges["effect"].mean("example").values, rel=1e-4, abs=1e-7)
    assert result["method"].startswith("eap-ig")
    result = output("estimate", folder, *words, "--at", "all")
    nodes = mi.estimate_nodes(chosen.model, chosen.pair, at="all")["effect"].mean("example")
    assert means(result["effects"]) == pytest.approx(nodes.values.ravel(), rel=1e-4, abs=1e-7)


def test_some_edges_of_many(folder: Path, output: Output, tmp_path: Path, capsys: Capture):
    """All into a reader, those of a circuit, the largest of an estimate; and what is measured beside an estimate."""
    words = ("--examples", "12", "--seed", "4")
    into = output("patch", folder, *words, "--edge", "logits")["effects"]
    assert {row["edge"].split("->")[1] for row in into} == {"logits"} and len(into) > 2
    file, guess = tmp_path / "circuit.json", tmp_path / "guess.nc"
    file.write_text(json.dumps(mi.Circuit(TWO).to_dict()))
    assert {row["edge"] for row in output("patch", folder, *words, "--edge", file)["effects"]} == set(TWO)
    estimate = output("estimate", folder, *words, "--edges", "--steps", "3", "--verify", "4", "--out", guess)
    assert estimate["verified"] == 4 and -1 <= estimate["correlation"] <= 1
    largest = output("patch", folder, *words, "--largest", f"{guess}:4")["effects"]
    exact = {row["edge"]: row["exact"] for row in estimate["effects"]}
    assert len(largest) == 4 and all(row["effect"] == pytest.approx(exact[row["edge"]], abs=1e-6) for row in largest)
    assert run(["estimate", str(folder), *words, "--edges", "--verify", "2"]) == 0
    assert "2 largest edges measured exactly" in " ".join(capsys.readouterr().out.split())
    for bad in ("guess.nc:x", "guess.txt:3", "missing.nc:3"):
        assert run(["patch", str(folder), "--largest", bad]) == 2
    assert run(["estimate", str(folder), "--verify", "2"]) == 2


def test_probe_prints_the_score_and_its_nulls(folder: Path, output: Output, capsys: Capture):
    words = ("probe", str(folder), "previous_token", "--site", "resid_post", "--layer", "0", "--examples", "32")
    result = output(*words)
    opened = mi.Run(folder)
    scores = mi.probe(opened.model(), opened.task, "previous_token", site="resid_post", layer=[0], examples=32)
    (row,) = result["layers"]
    assert (row["layer"], result["target"], result["step"]) == (0, "previous_token", 6)
    for name in ("score", "score_low", "score_high", "untrained", "shuffled", "majority", "erased"):
        assert row[name] == pytest.approx(float(scores[name].squeeze()))
    assert row["effect"] == pytest.approx(float(scores["effect"].mean()), abs=1e-6)
    assert run(list(words)) == 0
    text = capsys.readouterr().out
    assert "score" in text and "untrained" in text


def test_study_prints_verdict_and_findings(folder: Path, output: Output, capsys: Capture):
    words = ("study", str(folder), "--examples", "8", "--nulls", "2", "--untrained", "2")
    result = output(*words)
    story = json.loads((folder / "study.json").read_text())
    assert result["verdict"] == story["verdict"] and len(result["findings"]) == len(story["findings"])
    assert result["settings"]["untrained"] == 2 and result["settings"]["examples"] == 8
    assert run(list(words)) == 0
    text = capsys.readouterr().out
    assert story["verdict"] in " ".join(text.split()) and "loss on repeat" in text
