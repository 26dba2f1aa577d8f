"""Every verb end to end on a tiny run, and its errors: one line, exit status 2, no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mechinterp.cli import app, run

Capture = pytest.CaptureFixture[str]
Output = Callable[..., dict]


def test_train_writes_what_the_flags_say(folder: Path):
    record = json.loads((folder / "run.json").read_text())
    assert (record["seed"], record["status"]) == (3, "finished")
    assert (record["model"]["n_layers"], record["model"]["d_model"], record["training"]["steps"]) == (1, 8, 6)
    assert record["model"]["positions"] == "rotary"  # from the preset
    assert record["task"]["vocab"] == 12


def test_train_resumes_and_reads_a_file(folder: Path, tiny: list[str], tmp_path: Path, output: Output):
    again = output("train", *tiny, "--steps", "6", "--seed", "3", "--out", str(folder), "--resume")
    (row,) = again["runs"]
    assert row["steps"] == 6 and row["loss"] > 0
    config = tmp_path / "tiny.toml"
    config.write_text(
        '[task]\nname = "induction"\nvocab = 12\nseq_len = 12\nsegment = 3\nrepeats = 2\n'
        "[model]\nn_layers = 1\nn_heads = 2\nd_model = 8\n"
        "[training]\nsteps = 99\nbatch_size = 4\nlog_checkpoints = 2\nlinear_checkpoints = 2\n"
    )
    words = ["train", "--config", str(config), "--steps", "6", "--seed", "3", "--out", str(tmp_path / "run")]
    assert output(*words)["runs"][0]["weights"] == row["weights"]


def test_several_seeds(tiny: list[str], tmp_path: Path, output: Output):
    words = ["train", *tiny, "--steps", "2", "--seed", "5", "--seeds", "2", "--workers", "1", "--out", str(tmp_path)]
    assert [row["seed"] for row in output(*words)["runs"]] == [5, 6]
    assert (tmp_path / "seed-6" / "run.json").is_file()


def test_trace(folder: Path, output: Output, capsys: Capture):
    measures = ["--measures", "loss,head_scores", "--measures", "edge_effects examples=4 metric=log_prob"]
    found = output("trace", str(folder), *measures)
    assert found["steps"] == [0, 1, 3, 6]
    assert set(found["measures"]) == {"loss", "head_scores", "edge_effects"}
    assert found["measures"]["loss"]["dims"] == ["step", "group"] and found["coords"]["group"] == ["repeat", "fresh"]
    assert len(found["measures"]["loss"]["values"]) == 4
    assert run(["trace", str(folder)]) == 0
    assert "head_scores" in capsys.readouterr().out


def test_a_study_over_seeds_is_declared_in_a_file(tmp_path: Path, output: Output, capsys: Capture):
    path = tmp_path / "loss.toml"
    path.write_text(
        f'out = "{tmp_path / "out"}"\nseeds = 2\n'
        '[task]\nname = "induction"\nvocab = 12\nseq_len = 12\nsegment = 3\n'
        "[model]\nn_layers = 1\nn_heads = 2\nd_model = 8\n"
        "[training]\nsteps = 2\nbatch_size = 4\nwarmup = 0\nlog_checkpoints = 0\nlinear_checkpoints = 1\n"
        '[quantities.loss]\nmeasure = "loss"\nover = { group = "mean" }\nchance = 2.5\nbest = 0.0\n'
    )
    found = output("study", str(path), "--workers", "1")
    assert found["sha256"] in found["verdict"] and found["settings"]["seeds"] == 2
    assert any(row["value"] == "absent" for row in found["findings"])
    told = output("study", str(path), "--account")["account"]
    assert told["What formed, and when"][0].startswith("Nothing was found: 0 of 2 tests.")
    assert any("survival" in sentence for sentence in told["Not tested, and why"])
    assert run(["study", str(path), "--account"]) == 0
    assert "## What formed, and when\n\n- Nothing was found" in capsys.readouterr().out
    assert Path(output("report", str(path))["report"]).is_file()
    assert run(["study", str(path), "--examples", "4"]) == 2
    assert "declares the whole study: leave --examples out" in capsys.readouterr().err
    path.write_text(path.read_text().replace("chance = 2.5", "chance = 2.0"))
    assert run(["study", str(path)]) == 2
    assert "what was declared is not changed afterwards" in capsys.readouterr().err


def test_discover_then_evaluate(folder: Path, tmp_path: Path, output: Output, capsys: Capture):
    found = output("discover", str(folder), "--k", "5", "--examples", "8")
    assert Path(found["file"]) == folder / "circuit.json" and found["size"] == len(found["edges"]) <= 5
    assert found["origin"]["method"] == "top-k" and found["origin"]["corruption"] == "all"
    judged = output("evaluate", str(folder), "--examples", "8", "--nulls", "3")
    assert judged["size"] == found["size"] and len(judged["null_m"]) <= 3 and judged["found"] != "yes"
    assert run(["discover", str(folder), "--k", "5", "--examples", "8", "--out", str(tmp_path / "other.json")]) == 0
    assert (
        run(["evaluate", str(folder), "--examples", "8", "--nulls", "2", "--circuit", str(tmp_path / "other.json")])
        == 0
    )
    assert "faithfulness" in capsys.readouterr().out
    # The very pairs that it was found on are refused.
    assert run(["evaluate", str(folder), "--examples", "8", "--seed", "0"]) == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tasks", "induction"),
        ("measures", "head_scores"),
        ("circuits", "induction"),
        ("claims", "k-composition"),
        ("metrics", "logit_diff"),
        ("ground-truth", "compiled/reverse"),
    ],
)
def test_list(kind: str, name: str, output: Output, capsys: Capture):
    rows = output("list", kind)[kind]
    assert name in {row.get("name", row.get("claim")) for row in rows}
    assert run(["list", kind]) == 0
    assert name in capsys.readouterr().out


def test_verify_prints_one_object_per_claim(capsys: Capture):
    assert run(["verify", "induction", "--only", "learns-repeats,induction-head", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["claim"] for row in rows] == ["learns-repeats", "induction-head"]
    names = ["circuit", "claim", "source", "published", "measured", "low", "high", "tolerance", "seeds", "verdict"]
    assert list(rows[0]) == [*names, "purpose"]
    assert run(["verify", "induction", "--only", "learns-repeats"]) == 0
    assert "reproduced" in capsys.readouterr().out


def test_a_failed_claim_is_exit_status_one(tmp_path: Path, capsys: Capture):
    import shutil

    from mechinterp.claims import load_circuit

    folder = tmp_path / "strict"
    shutil.copytree(load_circuit("induction").path, folder)
    text = (folder / "claims.toml").read_text()
    (folder / "claims.toml").write_text(text.replace("value = 0.5\nweaker = 1.0", "value = 0.00001", 1))
    assert run(["verify", str(folder), "--only", "learns-repeats"]) == 1
    assert "FAILED: learns-repeats" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train", "no task is named"),
        ("train inductoin", "no task 'inductoin'. Did you mean 'induction'"),
        ("train induction --layers two", "n_layers='two'"),
        ("train induction --segment 1", "segment=1"),
        ("train induction --config nowhere.toml", "cannot be read"),
        ("train induction --seeds 0", "--seeds"),
        ("trane induction", "No such command 'trane'"),
        ("trace nowhere", "nowhere does not exist"),
        ("trace {run} --measures los", "no measure 'los'. Did you mean 'loss'"),
        ("discover {run} --method acdcc", "Did you mean 'acdc'"),
        ("discover {run} --corruption x", "no corruption 'x'"),
        ("evaluate {run} --circuit nowhere.json", "`mechinterp discover` writes one"),
        ("evaluate {run} --metric logitdiff", "Did you mean 'logit_diff'"),
        ("evaluate {run} --circuit {run}/run.json", "is no circuit"),
        ("patch nowhere", "nowhere does not exist"),
        ("patch {run} --site zz", "Did you mean"),
        ("patch {run} --at roles", "Did you mean 'role'"),
        ("patch {run} --direction up", "no direction 'up'"),
        ("patch {run} --edge L0.H0->L9.H0.k", "L9.H0"),
        ("patch {run} --edges --site z --at role", "edges take no --site and no --at"),
        ("patch {run} --inputs split", "nodes take no --inputs"),
        ("patch {run} --examples many", "--examples"),
        ("estimate {run} --method eap", "add --edges"),
        ("estimate {run} --edges --method aep", "Did you mean 'eap'"),
        ("estimate {run} --edges --direction noise", "edges take no --direction"),
        ("probe {run} previous", "no latent 'previous'. Did you mean 'previous_token'"),
        ("probe {run} previous_token --site zz", "zz"),
        ("study nowhere", "nowhere does not exist"),
        ("verify inductoin", "no circuit 'inductoin'"),
        ("list measure", "Did you mean 'measures'"),
        ("report nowhere", "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_two(words: str, says: str, folder: Path, capsys: Capture):
    capsys.readouterr()
    assert run(words.format(run=folder).split()) == 2
    came = capsys.readouterr()
    lines = [line for line in came.err.splitlines() if line.startswith("mechinterp:")]
    assert len(lines) == 1 and says in lines[0] and came.out == ""
    assert "Traceback" not in came.err


def test_config_file_errors(tmp_path: Path, capsys: Capture):
    path = tmp_path / "a.toml"
    for text, says in [
        ("[modle]\n", "no table [modle]. Did you mean 'model'"),
        ("model = 3\n", "write [model]"),
        ("[model\n", "is no TOML"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("[training]\nsteps = " + "9" * 5000 + "\n", "is no TOML"),
        ("[training]\nsteps = " + "9" * 400 + "\n", "steps is an integer of more than 64 bits"),
        ('[task]\nname = "other"\n', "name it once"),
        ("[model]\nlayers = 2\n", "no setting 'layers'"),
    ]:
        path.write_text(text)
        assert run(["train", "induction", "--config", str(path), "--out", str(tmp_path / "x")]) == 2
        assert says in capsys.readouterr().err


def test_a_bug_is_no_bad_input(monkeypatch: pytest.MonkeyPatch):
    def broken(words: list[str]) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(app, "_invoke", broken)
    with pytest.raises(ZeroDivisionError):
        run(["list", "tasks"])


def test_version_and_help(capsys: Capture):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2
    assert run([]) == run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in app.VERBS)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_is_one_line_and_loses_nothing(tiny: list[str], tmp_path: Path):
    out = tmp_path / "run"
    code = "from mechinterp.cli import main; main()"
    words = ["train", *tiny[:-2], "--steps", "200000", "--linear-checkpoints", "2000", "--out", str(out)]
    # A test run that was started in the background may have been told to ignore interrupts, and would pass that on.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not (out / "state.safetensors").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error and error.count("mechinterp: interrupted") == 1
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert (out / "checkpoints").is_dir()


def test_report_studies_a_run_once(folder: Path, tmp_path: Path, output: Output):
    page = Path(output("report", str(folder), "--out", str(tmp_path / "a.html"))["report"])
    study = folder / "study.json"
    written = study.stat().st_mtime_ns
    assert page == tmp_path / "a.html" and "<html" in page.read_text()[:200]
    assert output("report", str(folder))["report"] == str(folder / "report.html")
    assert study.stat().st_mtime_ns == written


def test_demo_says_what_it_missed(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    """A demo of six steps: nothing is learned, and the table says so."""
    from mechinterp.cli import demo
    from mechinterp.training import Run

    def hardly_trained(out: Path, seed: int) -> tuple[Run, Run]:
        words = ["train", *tiny, "--steps", "6", "--seed", str(seed), "--out"]
        for name in ("two-layer", "one-layer"):
            assert run([*words, str(out / name), "--resume"]) == 0
        return Run(out / "two-layer"), Run(out / "one-layer")

    monkeypatch.setattr(demo, "trained", hardly_trained)
    assert run(["demo", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()
    assert "MISSED" in capsys.readouterr().out
    assert run(["demo", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    met = {row["name"]: row["met"] for row in found["table"]}
    assert met["loss on repeat"] is False and met["loss on repeat, one layer"] is True
    assert met["gap recovered by the circuit"] is not None and met["loss on fresh"] is None
    study = json.loads((tmp_path / "two-layer" / "study.json").read_text())
    assert found["verdict"] == study["verdict"]
    names = ("name", "value", "low", "high", "null", "unit", "where", "note")
    table = {row["name"]: {name: row[name] for name in names} for row in found["table"]}
    assert all(table[row["name"]] == {name: row[name] for name in names} for row in study["findings"])
