"""Runs with interventions: what they record, that they continue to the bit, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch

from mechinterp.core import ConfigError, MechinterpError, RunError, UnsupportedError
from mechinterp.interventions import EditedTransformer
from mechinterp.models import ModelConfig, Transformer
from mechinterp.training import Recorder, Run, train_many
from mechinterp.training.interventions import (
    ClampSite,
    DisallowKeys,
    GiveCopy,
    GiveInput,
    GivePattern,
    HeadRole,
    KeepFork,
    ScaleSite,
    as_interventions,
)

FORWARD = (ClampSite, DisallowKeys, GiveCopy, GiveInput, GivePattern, KeepFork, ScaleSite)


def test_every_kind_is_tried(kinds):
    from mechinterp.training.interventions import INTERVENTION_KINDS

    assert {one["kind"] for some in kinds.values() for one in some} == set(INTERVENTION_KINDS)


def test_stopped_at_any_step_and_continued_it_ends_in_the_same_bytes(
    kind, kinds, tiny_train, tiny_run, content, tmp_path: Path
):
    whole = tiny_train(tmp_path / "whole", interventions=kinds[kind])
    assert whole.weights_hash() != tiny_run.weights_hash()

    def stop(step: int, steps: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    for last in range(5):
        folder = tmp_path / str(last)
        with pytest.raises(KeyboardInterrupt):
            tiny_train(folder, interventions=kinds[kind], progress=stop)
        tiny_train(folder, interventions=kinds[kind], resume=True)
        assert content(folder) == content(whole.path), f"stopped at step {last}"


def test_a_step_without_effect_is_the_plain_run(tiny_train, tiny_run, tmp_path: Path):
    """Strength 0, factor 1, the settings that there are: other paths through the code, and the same bits."""
    specs = [
        dict(kind="pattern", heads="L0", to="uniform", strength=0),
        dict(kind="scale", site="L0.mlp_in" if tiny_run.config.model.d_mlp else "L0.z", factor=1),
        dict(kind="change", training={"lr": tiny_run.config.training.lr}),
    ]
    run = tiny_train(tmp_path / "run", interventions=specs)
    assert [run.weights_hash(step) for step in run.steps] == [tiny_run.weights_hash(step) for step in tiny_run.steps]
    assert run.metrics().equals(tiny_run.metrics())


def test_the_record_is_data_and_a_plain_one_has_nothing_of_it(tiny_run, tiny_train, kinds, tmp_path: Path):
    assert set(json.loads((tiny_run.path / "run.json").read_text())) & {"interventions", "resolutions"} == set()
    run = tiny_train(tmp_path / "run", interventions=kinds["several"])
    again = Run(run.path).config
    assert again.interventions == as_interventions(kinds["several"])
    assert list(again.resolutions) == [1] and len(again.resolutions[1].heads) == 1
    assert again.format == tiny_run.config.format == 1
    with pytest.raises(RunError, match=r"interventions is .* in the folder and .* now"):
        tiny_train(run.path, resume=True)
    assert tiny_train(run.path, resume=True, interventions=kinds["several"]).status == "finished"


def test_the_checkpoint_of_its_first_step_has_been_changed_already(tiny_train, tiny_run, tmp_path: Path):
    source = tiny_train(tmp_path / "source", seed=7)
    spec = dict(kind="transplant", part="L0.H1", run=str(source.path), step=4, start=2)
    run = tiny_train(tmp_path / "run", interventions=[spec])
    assert run.weights_hash(0) == tiny_run.weights_hash(0)
    before, after, other = (one.weights(step) for one, step in ((tiny_run, 2), (run, 2), (source, 4)))
    for name, value in after.items():
        rows = "attn.W_" in name
        assert torch.equal(value[0] if rows else value, before[name][0] if rows else before[name])
        if rows:
            assert torch.equal(value[1], other[name][1]) and not torch.equal(value[1], before[name][1])
    assert run.config.resolutions[0].weights == source.weights_hash(4)


def test_a_transplant_of_all_is_the_other_run(tiny_train, tiny_run, tmp_path: Path):
    spec = dict(kind="transplant", part="all", run=str(tiny_run.path), step=0)
    run = tiny_train(tmp_path / "run", seed=3, interventions=[spec, dict(kind="change", training={"data_seed": 0})])
    assert [run.weights_hash(step) for step in run.steps] == [tiny_run.weights_hash(step) for step in tiny_run.steps]


def test_a_role_is_found_in_the_named_model(tiny_train, tiny_run, task, tmp_path: Path):
    from mechinterp.attribution import head_scores
    from mechinterp.core import derive_seed

    source = tiny_train(tmp_path / "source", n_layers=2, n_heads=4, seed=2)
    role = dict(role="previous_token", count=2, run=str(source.path), step=2, seed=3, examples=5)
    spec = dict(kind="scale", site="z", heads=role, factor=0)
    run = tiny_train(tmp_path / "run", n_layers=2, n_heads=4, interventions=[spec])
    scores = head_scores(source.model(2), task.batch(5, derive_seed(3, "role of heads"))).mean("example")
    ranked = scores.sel(score="previous_token").stack(at=["layer", "head"]).sortby(lambda one: -one)
    wanted = tuple(f"L{layer}.H{head}" for layer, head in ranked["at"].values[:2])
    found = run.config.resolutions[0]
    assert found.heads == wanted and found.weights == source.weights_hash(2)
    named = [dict(kind="scale", site=f"{head}.z", factor=0) for head in wanted]
    assert (
        tiny_train(tmp_path / "named", n_layers=2, n_heads=4, interventions=named).weights_hash() == run.weights_hash()
    )


def test_the_model_under_interventions_is_the_one_that_trained(kind, kinds, tiny_train, task, tmp_path: Path):
    run = tiny_train(tmp_path / "run", interventions=kinds[kind])
    changed = [one["kind"] == "change" for one in kinds[kind]]
    for step in run.steps:
        model = run.model(step, interventions=True)
        acts = any(one.active(step) and type(one) in FORWARD for one in run.config.interventions)
        assert isinstance(model, EditedTransformer if acts else Transformer)
        if any(changed):
            continue
        batch = task.training_batch(2, 0, step)
        with torch.no_grad():
            loss = task.loss(model(batch.inputs), batch)[batch.scored].mean()
        assert float(run.metrics()["loss"].sel(step=step)) == pytest.approx(float(loss), abs=1e-5)


def test_a_plain_run_has_no_model_under_interventions(tiny_run):
    with pytest.raises(ConfigError, match="was trained without interventions: there is only the plain model"):
        tiny_run.model(interventions=True)


def test_several_seeds_in_processes(task, tiny_train, content, kinds, tmp_path: Path):
    settings = dict(n_layers=1, n_heads=2, d_model=8, steps=4, batch_size=2)
    settings |= dict(log_checkpoints=0, linear_checkpoints=2, log_every=1)
    runs = train_many(task, [0, 1], tmp_path / "many", workers=1, interventions=kinds["several"], **settings)
    alone = tiny_train(tmp_path / "alone", interventions=kinds["several"])
    assert content(runs[0].path) == content(alone.path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(kind="patern", heads="L0"), r"no kind of intervention \(1\) 'patern'. Did you mean 'pattern'\?"),
        (dict(heads="L0"), "intervention 1 has no kind: one of pattern, disallow"),
        (dict(kind="pattern", heads="L0", to="previous"), "intervention 1 .pattern.: to='previous': Input should be"),
        (dict(kind="pattern", heads="L0", to="uniform", strength=1.5), "strength=1.5: Input should be less than or"),
        (dict(kind="pattern", heads="L0", to="uniform", stop=0), "stop=0 is the first step without it, and must lie"),
        (dict(kind="pattern", heads="H1", to="uniform"), "no heads 'H1': write 'L0.H1', or 'L0' for all heads of"),
        (dict(kind="pattern", heads="L0.H2", to="uniform"), "no heads 'L0.H2': the model has layers 0-0, heads 0-1"),
        (dict(kind="pattern", heads="L3", to="uniform"), "no heads 'L3': the model has layers 0-0, heads 0-1"),
        (dict(kind="pattern", heads={"role": "indction"}, to="uniform"), "no role of heads 'indction'. Did you mean"),
        (dict(kind="scale", site="L0.H5.z", factor=2), "no site 'L0.H5.z': the model has layers 0-0, heads 0-1"),
        (dict(kind="scale", site="L0.mlp", factor=2), "the model is attention only"),
        (dict(kind="scale", site="zz", factor=2), "no site of kind 'zz'. Did you mean 'z'"),
        (dict(kind="scale", site="L0.z", factor=float("nan")), "factor=nan: Input should be a finite number"),
        (dict(kind="scale", site="L0.z"), "setting 'factor' is missing"),
        (dict(kind="scale", site="L0.z", factor=2, strenght=1), "no setting 'strenght'"),
        (dict(kind="freeze", part="L0.H0.x"), "no part 'L0.H0.x': of a head there are q, k, v, o"),
        (dict(kind="freeze", part="L1"), "no part 'L1': the model has layers 0-0"),
        (dict(kind="freeze", part="unembedd"), "no part 'unembedd' of a model. Did you mean 'unembed'"),
        (dict(kind="freeze", part="L0.mlp"), "this model has no weights in 'L0.mlp'"),
        (dict(kind="freeze", part="mlp", heads="L0.H0"), "no part 'mlp' of a head"),
        (dict(kind="reinitialise", part="embed", start=4), "starts at step 4, and the training ends at 4"),
        (dict(kind="change"), "nothing is changed: name settings of task or training"),
        (dict(kind="change", training={"steps": 9}), "no setting that may change in training: 'steps'"),
        (dict(kind="change", training={"lr": -1}), "lr=-1: Input should be greater than 0"),
        (dict(kind="change", task={"segmnt": 9}), "no setting 'segmnt'. Did you mean 'segment'"),
        (dict(kind="transplant", part="embed", run="nowhere"), "nowhere is no Run with a checkpoint"),
    ],
)
def test_bad_interventions_are_one_clear_line_and_leave_no_folder(spec, message, tiny_train, tmp_path: Path):
    with pytest.raises(MechinterpError, match=message) as error:
        tiny_train(tmp_path / "run", interventions=[spec])
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_transplant_that_does_not_fit(tiny_train, tmp_path: Path):
    wide = tiny_train(tmp_path / "wide", d_model=16)
    spec = dict(kind="transplant", part="L0.H1.v", run=str(wide.path))
    with pytest.raises(ConfigError, match=r"W_V is \[2, 8, 4\] here, and there \[2, 16, 8\]"):
        tiny_train(tmp_path / "run", interventions=[spec])
    spec = dict(kind="transplant", part="embed", run=str(wide.path), step=3)
    with pytest.raises(RunError, match="has no checkpoint at step 3"):
        tiny_train(tmp_path / "run", interventions=[spec])


def test_heads_that_share_keys_are_changed_together(task, tiny_train, tmp_path: Path):
    grouped = dict(n_heads=4, n_kv_heads=2)
    with pytest.raises(ConfigError, match="2 heads share one 'k' in this model: name all of them"):
        tiny_train(tmp_path / "a", interventions=[dict(kind="freeze", part="L0.H1")], **grouped)
    with pytest.raises(ConfigError, match="2 heads share one 'v' in this model: name all of them"):
        tiny_train(tmp_path / "b", interventions=[dict(kind="keep", heads="L0.H1", fork="v")], **grouped)
    run = tiny_train(tmp_path / "c", interventions=[dict(kind="freeze", part="L0.H2-3")], **grouped)
    first, last = (run.weights(step)["blocks.0.attn.W_K"] for step in (0, 4))
    assert torch.equal(first[1], last[1]) and not torch.equal(first[0], last[0])


def test_what_a_model_does_not_have_is_refused():
    vectors = ModelConfig(n_layers=1, n_heads=1, d_model=8, d_in=3, inputs="vectors", d_vocab_out=4, n_ctx=5)
    padded = ModelConfig(n_layers=1, n_heads=1, d_model=8, d_vocab=6, pad_token=0, n_ctx=5)
    from mechinterp.training.interventions.apply import standing_edits

    with pytest.raises(UnsupportedError, match="a perfect copy needs a model that reads and writes the same tokens"):
        standing_edits(as_interventions([dict(kind="copy", heads="L0")]), Transformer(vectors))
    with pytest.raises(UnsupportedError, match="a pattern cannot be given to a model with padding"):
        standing_edits(as_interventions([dict(kind="pattern", heads="L0", to="uniform")]), Transformer(padded))
    edits = standing_edits(as_interventions([dict(kind="pattern", heads="L0", to="induction")]), Transformer(vectors))
    with pytest.raises(MechinterpError, match="'induction' names keys by equal tokens, and this model reads vectors"):
        EditedTransformer(Transformer(vectors), edits)(torch.randn(2, 5, 3))


def test_a_model_with_hooks_by_hand_is_not_recorded(task, tmp_path: Path):
    model = Transformer(ModelConfig(**{**task.preset().model, "n_layers": 1, "n_heads": 2, "d_model": 8}))
    with Recorder(tmp_path / "run", model, task) as rec:
        rec(0, loss=1.0)
        model.add_hook("blocks.0.attn.hook_z", lambda value, hook: value * 0)
        with pytest.raises(UnsupportedError, match="would record weights alone, and the model still has hooks on"):
            rec(1, loss=1.0)
        model.reset_hooks()
    model.add_hook("blocks.0.attn.hook_z", lambda value, hook: value * 0)
    with pytest.raises(UnsupportedError, match="is given as interventions"):
        Recorder(tmp_path / "other", model, task).__enter__()
    assert not (tmp_path / "other").exists()


def test_what_is_no_settings_is_told():
    with pytest.raises(ConfigError, match="intervention 2 is a str: give settings, such as kind='pattern'"):
        as_interventions([dict(kind="change", training={"data_seed": 1}), "pattern"])


def test_a_role_says_what_it_is():
    assert HeadRole(role="induction").count == 1
    with pytest.raises(ConfigError, match="a step is the one of another run: name the run"):
        HeadRole(role="induction", step=3)
