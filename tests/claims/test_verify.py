"""The shipped induction circuit under its claims, and models under which they must fail."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from mechinterp.claims import LoadedCircuit, circuit_names, load_circuit, ship, verify
from mechinterp.core import ConfigError, RunError, derive_seed
from mechinterp.models import Transformer
from mechinterp.tasks import Induction
from mechinterp.training import train

# Without `all-heads-needed` (an untrained model has next to nothing to need) and `copying` (one layer copies too).
QUICK = ["learns-repeats", "previous-token-head", "induction-head", "k-composition", "k-composition-weights"]


@pytest.fixture(scope="module")
def shipped() -> LoadedCircuit:
    return load_circuit("induction")


def verdicts(**options) -> dict[str, str]:
    return {one.claim: one.verdict for one in verify("induction", **options)}


def test_every_claim_comes_out_as_stated():
    results = verify("induction")
    assert [one.claim for one in results if one.failed] == []
    assert {one.claim for one in results if one.verdict != "reproduced"} == {
        "unseen-distances",
        "circuit-of-matching-removed-not-chance",
    }
    by_name = {one.claim: one for one in results}
    head = by_name["induction-head"]
    assert head.measured is not None and head.low is not None and head.high is not None
    assert 0.8 < head.low < head.measured < head.high < 0.9
    assert by_name["untrained-induction"].seeds == tuple(range(19))
    assert "previous-token-head-first" not in by_name  # an order needs models trained anew


def test_the_shipped_model_is_what_its_claims_say(shipped: LoadedCircuit):
    batch = shipped.task.batch(64, seed=3)
    loss = shipped.task.loss(shipped.model(batch.inputs), batch)[batch.scored].mean()
    assert loss.item() < 0.05
    assert shipped.records["two-layer"].model == shipped.model.config
    assert shipped.models["two-layer"].run is not None and shipped.models["two-layer"].run.steps[-1] == 1200
    assert len(shipped.circuit.pruned()) == len(shipped.circuit) == 26
    assert "L0.H1->L1.H3.k" in shipped.circuit


def test_shipped_folders_are_data_and_small(shipped: LoadedCircuit):
    for name in circuit_names():
        files = [path for path in load_circuit(name).path.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".md", ".svg", ".toml", ".json", ".safetensors"}
        assert not any(path.stat().st_mode & 0o111 for path in files)
        assert sum(path.stat().st_size for path in files) < 1_048_576
        assert load_circuit(name).readme.startswith("# ")


def test_untrained_weights_fail_the_claims(shipped: LoadedCircuit):
    untrained = shipped.models["two-layer"].untrained
    assert set(verdicts(models={"two-layer": untrained}, only=QUICK).values()) == {"not reproduced"}


def test_one_layer_in_the_place_of_two_fails_the_claims(shipped: LoadedCircuit):
    one = shipped.models["one-layer"]
    found = verdicts(models={"two-layer": one}, only=[*QUICK, "second-layer-gain"])
    assert set(found.values()) == {"not reproduced"}


def test_two_layers_in_the_place_of_one_fail_the_control(shipped: LoadedCircuit):
    found = verdicts(models={"one-layer": shipped.model}, only=["one-layer-cannot", "second-layer-gain"])
    assert set(found.values()) == {"not reproduced"}


def test_another_circuit_fails_its_claim(tmp_path: Path, shipped: LoadedCircuit):
    folder = tmp_path / "mine"
    shutil.copytree(shipped.path, folder)
    text = (folder / "claims.toml").read_text()
    (folder / "claims.toml").write_text(text.replace('"L0.H1->L1.', '"L0.H2->L1.'))
    (result,) = verify(folder, only=["shipped-circuit-matching"])
    assert (result.circuit, result.verdict) == ("mine", "not reproduced")


def test_untrained_is_what_training_begins_with(tmp_path: Path):
    task = Induction(vocab=8, seq_len=8, segment=2, repeats=2)
    run = train(task, seed=3, out=tmp_path / "run", n_layers=1, n_heads=1, d_model=8, steps=1)
    first, made = run.weights(0), Transformer(run.model().config, seed=derive_seed(3, "model")).state_dict()
    assert all(torch.equal(first[name], made[name]) for name in made)


def test_retraining_gives_the_shipped_weights_for_the_shipped_seed(tiny: Path, tmp_path: Path):
    shipped = load_circuit(tiny).model.state_dict()
    first, _, second = verify(tiny, retrain=True, seeds=[0, 1], out=tmp_path / "again", workers=1)
    assert (first.verdict, first.seeds) == ("reproduced", (0, 1))
    assert (second.verdict, second.measured) == ("not testable at this scale", None)
    again = load_circuit(tiny)
    from mechinterp.training import Run

    remade = Run(tmp_path / "again" / "tiny" / "small-0").weights()
    assert all(torch.equal(shipped[name], remade[name]) for name in shipped)
    assert again.models["small"].run is not None and again.models["small"].run.steps == (0, 5)


def test_half_precision_halves_the_files_and_rounds_the_weights(tiny: Path, tmp_path: Path):
    task = Induction(vocab=8, seq_len=8, segment=2, repeats=2)
    run = train(task, steps=2, out=tmp_path / "wide", n_heads=1, d_model=64)
    whole, half = (ship(run, tmp_path / name, "small", half=name == "half")[1] for name in ("whole", "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    (tmp_path / "half" / "claims.toml").write_bytes((tiny / "claims.toml").read_bytes())
    loaded = load_circuit(tmp_path / "half").model.state_dict()
    for name, weight in run.weights().items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], weight, rtol=1e-3, atol=1e-6)


def test_damaged_and_missing_weights(tiny: Path):
    path = tiny / "weights" / "small-000005.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="damaged"):
        load_circuit(tiny)
    path.unlink()
    with pytest.raises(RunError, match="the last checkpoint of 'small' is of step 5, not 0"):
        load_circuit(tiny)
    (tiny / "weights" / "small-000000.safetensors").unlink()
    with pytest.raises(RunError, match="has no weights of 'small'"):
        load_circuit(tiny)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(name="inducton"), "no circuit 'inducton'. Did you mean 'induction'"),
        (dict(name="induction", only=["copyin"]), "claims no 'copyin'. Did you mean 'copying'"),
        (dict(name="induction", models={"three-layer": None}), "no model 'three-layer'"),
        (dict(name="induction", models={"two-layer": 3}), "not on this int"),
        (dict(name="induction", retrain=True, seeds=[]), "at least one"),
        (dict(name="induction", seeds=3), "give retrain=True or null="),
        (dict(name="induction", workers=-1), "at least one process"),
        (dict(name="induction", null="untraind"), "Did you mean 'untrained'"),
        (dict(name="induction", null="untrained", retrain=True), "on models that did not"),
        (dict(name="induction", null="untrained", models={"two-layer": None}), "give models, or one of these"),
        (dict(name="induction", null="untrained", only=["one-layer-cannot"]), "'one-layer-cannot' is a control"),
    ],
)
def test_what_cannot_be_verified(options: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        verify(**options)


def test_processes_find_what_one_process_finds(tiny: Path, tmp_path: Path):
    options = dict(name=tiny, retrain=True, seeds=[0, 1], out=tmp_path / "again")
    alone, shared = (verify(**options, workers=workers) for workers in (1, 2))
    assert alone == shared and [one.seeds for one in alone] == [(0, 1), (0, 1), ()]


def test_a_claim_whose_process_died_is_not_decided_and_the_others_are(tiny, tmp_path, monkeypatch, capsys):
    from mechinterp.cli.app import run
    from mechinterp.core.workers import Outcome

    class Dying:
        """The process of the first job dies, twice."""

        def __init__(self, count: int, retries: int) -> None:
            assert retries == 1

        def run(self, work, jobs, on_progress=None, on_end=None):
            dead = Outcome(failure="its process died (exit code -9)", died=True)
            return [dead, *(Outcome(work(job, lambda done, total: None)) for job in jobs[1:])]

    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    monkeypatch.setattr("mechinterp.claims.pool.LocalProcesses", Dying)
    monkeypatch.setattr(sys.modules["mechinterp.claims.verify"], "circuit_names", lambda: [tiny, other])
    results = verify(workers=2)
    assert [one.verdict for one in results[:3]] == ["not decided", "not decided", "not testable at this scale"]
    assert results[0].reason == "some models were not measured: its process died (exit code -9)"
    assert not results[0].failed and results[0].undecided and results[0].measured is None
    assert results[3].verdict == "reproduced" and results[3].measured is not None
    assert run(["verify", "--workers", "2"]) == 3
    text = " ".join(capsys.readouterr().out.split())
    assert "NOT DECIDED: loss" in text and "its process died" in text
