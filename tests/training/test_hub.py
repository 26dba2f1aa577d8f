"""Checkpoints of the hub and of folders in its format: loaded offline, named by their files, refused in one line."""

import gc
import json
import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from hub_layout import STEPS, lay_cache, lay_folder, neox

from mechinterp.core import ConfigError, RunError, UnsupportedError
from mechinterp.models import Transformer
from mechinterp.training import Run
from mechinterp.training.hub import HubCheckpoints

NAME = "owner/tiny-neox"
REVISIONS = {step: f"step{step}" for step in STEPS}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Path:
    """Read only."""
    return lay_cache(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def cache(cached, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(cached, tmp_path / "hub", symlinks=True))


def snapshot(cache: Path, step: int) -> Path:
    repository = cache / "models--owner--tiny-neox"
    return repository / "snapshots" / (repository / "refs" / f"step{step}").read_text()


def own(path: Path) -> Path:
    """A file of a snapshot in place of the link to its blob."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


@pytest.fixture
def open_hub(cached, task, tmp_path):
    def make(**settings):
        out = settings.pop("out", tmp_path / "run")
        return Run.from_hf(NAME, REVISIONS, task, out, **{"cache_dir": cached, **settings})

    return make


def test_models_are_what_was_saved(open_hub, cached, content):
    before = content(cached)
    run = open_hub()
    assert run.steps == STEPS and run.status == "finished" and run.task.vocab == 16
    tokens = torch.randint(40, (2, 20))
    for step in STEPS:
        model = run.model(step)
        assert isinstance(model, Transformer) and model.dtype == torch.float32
        with torch.no_grad():
            theirs = neox(step)(tokens).logits.log_softmax(-1)
            torch.testing.assert_close(model(tokens).log_softmax(-1), theirs, rtol=0, atol=1e-4)
    assert len({run.weights_hash(step) for step in STEPS}) == 5
    assert run.weights(0)["embed.W_E"].shape == (40, 16)
    assert content(cached) == before  # the hub's cache is left alone
    with pytest.raises(RunError, match="no checkpoint at step 2: there are 5, from 0 to 1000; the nearest is 1"):
        run.model(2)


def test_the_folder_opens_again(open_hub, task, tmp_path):
    run = open_hub(n_ctx=12)
    again = Run(tmp_path / "run")
    assert again.task == task and again.steps == STEPS and again.model(16).config.n_ctx == 12
    assert [again.weights_hash(step) for step in STEPS] == [run.weights_hash(step) for step in STEPS]
    assert sorted(path.name for path in run.path.iterdir()) == ["hashes", "run.json"]
    # With more revisions it is the same Run; with another task, or over anything else, it is refused.
    assert Run.from_hf(NAME, {1: "step1"}, task, run.path).steps == (1,)
    assert Run.from_hf(NAME, REVISIONS, None, run.path).task == task
    for name, other in ((NAME, type(task)()), ("owner/other", task)):
        with pytest.raises(RunError, match="holds a Run of other checkpoints or another task"):
            Run.from_hf(name, {1: "step1"}, other, run.path)
    with pytest.raises(RunError, match="holds other files"):
        Run.from_hf(NAME, {1: "step1"}, task, run.path / "hashes")


def test_the_documented_call_for_pythia(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "other-models.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "# Pythia" in block)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    run = Run("runs/pythia-70m")
    assert len(run.steps) == 154
    assert run.steps[:4] == (0, 1, 2, 4) and run.steps[9:13] == (256, 512, 1000, 2000) and run.steps[-1] == 143_000
    assert run.config.source.revisions[512] == "step512" and run.task.vocab == 50_254
    with pytest.raises(RunError, match=r"'step143000' is not in the cache .* HF_HUB_OFFLINE forbids a download"):
        run.model()


def test_a_plain_folder(task, tmp_path):
    folder = lay_folder(tmp_path / "theirs", (0, 512))
    run = Run.from_hf(folder, {step: f"checkpoint-{step}" for step in (512, 0)}, task)
    assert run.path == folder / "mechinterp" and run.steps == (0, 512)
    assert torch.equal(run.model(512).W_E, neox(512).gpt_neox.embed_in.weight)
    with pytest.raises(RunError, match=r"theirs has no folder 'checkpoint-7': revisions are its sub-folders"):
        Run.from_hf(folder, {7: "checkpoint-7"}, task)
    with pytest.raises(ConfigError, match=r"'./nowhere' is neither a folder nor the name of a repository"):
        Run.from_hf("./nowhere", {0: "step0"})
    with pytest.raises(ConfigError, match="revisions"):
        Run.from_hf(folder, {}, task, tmp_path / "none")
    assert not (tmp_path / "none").exists()


LAYERS, WIDTH = b'"num_hidden_layers": 2', b'"hidden_size": 16'


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        ("model.safetensors", lambda data: data[:-9], "'step16' of owner/tiny-neox cannot be loaded from .*header"),
        ("model.safetensors", lambda data: b"", "header too small"),
        ("model.safetensors", None, "does not appear to have a file named"),
        ("config.json", None, r"'step16' is not in the cache .*it holds step0, step1, step1000, step16, step512\)"),
        ("config.json", lambda data: data[:40], "not a valid JSON"),
        ("config.json", lambda data: b"{}", "cannot be loaded from .*Unrecognized model"),
        ("config.json", lambda data: data.replace(b'"gpt_neox"', b'"nonesuch"'), "type `nonesuch`"),
        ("config.json", lambda data: data.replace(WIDTH, WIDTH.replace(b"16", b"8")), "cannot be loaded"),
        (
            "config.json",
            lambda data: data.replace(LAYERS, LAYERS.replace(b"2", b"3")),
            r"does not fit its configuration: missing weights 'gpt_neox.layers.2.* \(12 in all\)",
        ),
        (
            "config.json",
            lambda data: data.replace(LAYERS, LAYERS.replace(b"2", b"1")),
            r"does not fit its configuration: unexpected weights 'gpt_neox.layers.1.* \(12 in all\)",
        ),
    ],
)
def test_damage_is_one_error(cache, open_hub, capsys, name, edit, says):
    path = own(snapshot(cache, 16) / name)
    data = path.read_bytes()
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(data))
        assert edit(data) != data
    run = open_hub(cache_dir=cache)
    with pytest.raises(RunError, match=says) as caught:
        run.model(16)
    assert "\n" not in str(caught.value) and capsys.readouterr() == ("", "")
    run.model(512)


def test_a_flipped_bit_is_noticed_by_the_name_of_the_blob(cache, open_hub):
    blob = (snapshot(cache, 16) / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    run = open_hub(cache_dir=cache)
    with pytest.raises(RunError, match=r"model.safetensors is damaged: its content does not fit its name in the cache"):
        run.weights_hash(16)


def test_what_is_not_cached(cached, task, tmp_path):
    run = Run.from_hf(NAME, {7: "step7"}, task, tmp_path / "run", cache_dir=cached)
    for act in (run.model, run.weights_hash):
        with pytest.raises(
            RunError, match=r"'step7' is not in the cache .*of owner/tiny-neox it holds step0, step1"
        ) as one:
            act(7)
        assert "\n" not in str(one.value) and "HF_HUB_OFFLINE forbids a download" in str(one.value)
    absent = Run.from_hf("owner/absent", {7: "step7"}, task, tmp_path / "absent", cache_dir=cached)
    with pytest.raises(RunError, match=r"'step7' is not in the cache .*\(nor owner/absent\)"):
        absent.model()


def test_what_is_not_cached_is_downloaded_once(cached, task, tmp_path, monkeypatch):
    """The download is played by a copy; from then on the commit is asked for, and the hub is not."""
    from transformers import AutoModelForCausalLM

    real, asked = AutoModelForCausalLM.from_pretrained, []

    def downloading(pretrained_model_name_or_path, **options):
        asked.append({key: options.get(key) for key in ("revision", "local_files_only")})
        if not (tmp_path / "hub").exists():
            shutil.copytree(cached, tmp_path / "hub", symlinks=True)
        return real(pretrained_model_name_or_path, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", downloading)
    run = Run.from_hf(NAME, REVISIONS, task, tmp_path / "run", cache_dir=tmp_path / "hub")
    name = run.weights_hash(16)
    assert asked == [{"revision": "step16", "local_files_only": None}]
    run.model(16)
    commit = snapshot(cached, 16).name
    assert asked[1:] == [{"revision": commit, "local_files_only": True}]
    assert run.weights_hash(16) == name and len(asked) == 2


def test_a_family_without_counterpart_and_code_in_a_repository(tmp_path, task):
    from transformers import BertConfig, BertLMHeadModel

    bert = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    BertLMHeadModel(bert).save_pretrained(tmp_path / "theirs" / "bert")
    code = lay_folder(tmp_path / "theirs", (0,)) / "checkpoint-0"
    config = json.loads((code / "config.json").read_text())
    calls = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (code / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": calls}))
    (code / "evil.py").write_text("raise SystemExit('code was run')")
    run = Run.from_hf(tmp_path / "theirs", {0: "bert", 1: "checkpoint-0"}, task)
    with pytest.raises(UnsupportedError, match="no Transformer for a BertLMHeadModel: known are"):
        run.model(0)
    with pytest.raises(RunError, match=r"'checkpoint-0' of .* contains custom code"):
        run.model(1)


def test_weights_under_their_old_names(tmp_path, task):
    """As the hub has Pythia: half precision, `embed_out`, masks and tables beside the weights, pickled tensors."""
    folder = lay_folder(tmp_path / "theirs", (0,)) / "checkpoint-0"
    (folder / "model.safetensors").unlink()
    old = {name.replace("lm_head", "embed_out"): value.half() for name, value in neox(0).state_dict().items()}
    for layer in range(2):
        at = f"gpt_neox.layers.{layer}.attention"
        old |= {f"{at}.bias": torch.ones(1, 1, 24, 24, dtype=torch.bool), f"{at}.masked_bias": torch.tensor(-1e9)}
        old[f"{at}.rotary_emb.inv_freq"] = torch.ones(1)
    torch.save(old, folder / "pytorch_model.bin")
    model = Run.from_hf(tmp_path / "theirs", {0: "checkpoint-0"}, task).model()
    with torch.no_grad():
        tokens = torch.randint(40, (2, 20))
        torch.testing.assert_close(model(tokens), neox(0).half().float()(tokens).logits, rtol=0, atol=1e-4)


def test_one_model_is_alive_at_a_time(open_hub, monkeypatch):
    """Counted without the cyclic collector, which would only hide what holds on to a model."""
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []
    real = HubCheckpoints._original

    def counted(self, step):
        most.append(len(alive))
        theirs = real(self, step)
        alive.add(theirs)
        return theirs

    monkeypatch.setattr(HubCheckpoints, "_original", counted)
    run = open_hub()
    gc.disable()
    try:
        for step in STEPS:
            model = run.model(step)
            alive.add(model)
            del model
    finally:
        gc.enable()
    assert most == [0] * 5


def test_a_file_is_read_again_only_if_it_changed(cache, open_hub, monkeypatch):
    from mechinterp.training import hashes

    reads = []
    real = hashes._file_hash
    monkeypatch.setattr(hashes, "_file_hash", lambda path: (reads.append(path.name), real(path))[1])
    first = [open_hub(cache_dir=cache).weights_hash(step) for step in STEPS]
    assert sorted(reads) == ["config.json"] * 5 + ["model.safetensors"] * 5
    again = [open_hub(cache_dir=cache).weights_hash(step) for step in STEPS]
    assert again == first and len(reads) == 10
    # Other weights of equal size, with the old time: the change of the entry tells.
    path = own(snapshot(cache, 1) / "model.safetensors")
    path.write_bytes((snapshot(cache, 16) / "model.safetensors").read_bytes())
    assert open_hub(cache_dir=cache).weights_hash(1) == first[2] and len(reads) == 12
