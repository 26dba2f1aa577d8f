"""What each intervention does to a forward pass, a gradient and an update."""

import math

import pytest
import torch

from mechinterp.attribution import head_scores
from mechinterp.core import Batch, ConfigError
from mechinterp.interventions import EditedTransformer, record
from mechinterp.models import ModelConfig, Transformer
from mechinterp.training import TrainConfig, Trainer
from mechinterp.training.interventions import as_interventions
from mechinterp.training.interventions.apply import standing_edits

TOKENS = torch.tensor([[1, 2, 1, 3, 1, 2], [4, 5, 6, 4, 5, 5]])
SIZES = dict(n_layers=2, n_heads=3, d_model=12, d_vocab=8, n_ctx=6)


def model_of(**settings) -> Transformer:
    return Transformer(ModelConfig(**{**SIZES, **settings}), seed=1).double()


def edited(model: Transformer, *specs: dict) -> EditedTransformer:
    return EditedTransformer(model, standing_edits(as_interventions(specs), model))


def patterns(model, layer: int = 0) -> torch.Tensor:
    return record(model, TOKENS, [f"blocks.{layer}.attn.hook_pattern"])[1][f"blocks.{layer}.attn.hook_pattern"]


PREVIOUS = torch.eye(6, dtype=torch.float64).roll(-1, 1).tril()
PREVIOUS[0, 0] = 1
UNIFORM = torch.ones(6, 6, dtype=torch.float64).tril() / torch.arange(1, 7)[:, None]


@pytest.mark.parametrize(("to", "wanted"), [("previous-token", PREVIOUS), ("uniform", UNIFORM)])
def test_a_given_pattern_is_what_the_forward_pass_sees(to, wanted):
    model = model_of()
    own, seen = patterns(model), patterns(edited(model, dict(kind="pattern", heads=["L0.H0", "L0.H2"], to=to)))
    torch.testing.assert_close(seen[:, [0, 2]], wanted.expand(2, 2, 6, 6), atol=1e-6, rtol=0)
    assert torch.equal(seen[:, 1], own[:, 1])


def test_an_induction_pattern_attends_to_what_followed_an_earlier_copy():
    model = model_of()
    own, seen = patterns(model, 1), patterns(edited(model, dict(kind="pattern", heads="L1", to="induction")), 1)
    # 1 2 1 3 1 2: the token 1 at position 4 had followers at 1 and 3; the token 2 at position 5 one at 2.
    assert seen[0, :, 4].tolist() == [[0, 0.5, 0, 0.5, 0, 0]] * 3
    assert seen[0, :, 5].tolist() == [[0, 0, 1, 0, 0, 0]] * 3
    assert torch.equal(seen[0, :, [0, 1, 3]], own[0, :, [0, 1, 3]])
    batch = Batch(TOKENS, TOKENS, TOKENS >= 0)
    scores = head_scores(edited(model, dict(kind="pattern", heads="L1", to="induction")), batch)
    assert scores.sel(score="induction", layer=1).values == pytest.approx(1)


def test_a_pattern_of_offsets_looks_back_so_far_and_leaves_rows_that_cannot():
    model = model_of(attention="linear")
    own, seen = (
        patterns(model),
        patterns(edited(model, dict(kind="pattern", heads="L0.H0", to="offsets", offsets=[2, 4]))),
    )
    assert seen[0, 0, 5].tolist() == [0, 0.5, 0, 0.5, 0, 0] and seen[0, 0, 3].tolist() == [0, 1, 0, 0, 0, 0]
    assert torch.equal(seen[:, 0, :2], own[:, 0, :2]) and torch.equal(seen[:, 1:], own[:, 1:])
    for wrong in (dict(to="offsets"), dict(to="uniform", offsets=[1]), dict(to="offsets", offsets=[-1])):
        with pytest.raises(ConfigError, match="offsets"):
            as_interventions([dict(kind="pattern", heads="L0", **wrong)])


def test_strength_mixes_and_its_gradient_shrinks_with_it():
    model = model_of()
    own = patterns(model)
    half = patterns(edited(model, dict(kind="pattern", heads="L0.H0", to="previous-token", strength=0.25)))
    torch.testing.assert_close(half[:, 0], 0.75 * own[:, 0] + 0.25 * PREVIOUS)
    norms = {}
    for strength in (0.5, 1.0):
        changed = edited(model, dict(kind="pattern", heads="L0.H0", to="previous-token", strength=strength))
        gradient = torch.autograd.grad(changed(TOKENS).square().sum(), model.blocks[0].attn.W_Q)[0]
        norms[strength] = gradient.norm(dim=(1, 2)).tolist()
    assert norms[1.0][0] == 0 and norms[0.5][0] > 0 and min(norms[1.0][1:]) > 0


@pytest.mark.parametrize(
    "spec",
    [
        dict(kind="pattern", heads="L0", to="uniform", strength=0),
        dict(kind="scale", site="L0.z", factor=1),
        dict(kind="scale", site="L0.H1.scores", factor=1),
    ],
)
def test_strength_0_and_factor_1_change_no_bit(spec):
    model = model_of().float()
    assert not standing_edits(as_interventions([spec]), model)
    assert torch.equal(edited(model, spec)(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    ("keys", "row", "gone"),
    [("previous-token", 3, [2]), ("itself", 3, [3]), ("induction", 4, [1, 3]), ("copies", 4, [0, 2])],
)
@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_disallowed_keys_get_nothing_and_the_others_their_share(keys, row, gone, attention):
    model = model_of(attention=attention)
    own, seen = patterns(model), patterns(edited(model, dict(kind="disallow", heads="L0.H1", keys=keys)))
    assert torch.equal(seen[:, [0, 2]], own[:, [0, 2]])
    wanted = own[0, 1, row].clone()
    wanted[gone] = 0
    torch.testing.assert_close(seen[0, 1, row], wanted / wanted.sum() if attention == "softmax" else wanted)


def test_a_row_that_would_have_no_key_stays():
    model = model_of()
    seen = patterns(edited(model, dict(kind="disallow", heads="L0", keys="itself")))
    assert seen[:, :, 0, 0].tolist() == [[1, 1, 1]] * 2 and bool(seen.isfinite().all())


@pytest.mark.parametrize("site", ["z", "q", "k", "v", "result", "q_input"])
def test_scale_and_clamp_reach_one_head_of_a_site(site):
    model = model_of()
    hook = f"blocks.1.{'hook_q_input' if site == 'q_input' else f'attn.hook_{site}'}"
    own = record(model, TOKENS, [hook])[1][hook]
    scaled = record(edited(model, dict(kind="scale", site=f"L1.H2.{site}", factor=-2)), TOKENS, [hook])[1][hook]
    torch.testing.assert_close(scaled[..., 2, :], -2 * own[..., 2, :])
    torch.testing.assert_close(scaled[..., :2, :], own[..., :2, :])
    mean = record(edited(model, dict(kind="clamp", site=site, heads=["L1.H0"], to="batch-mean")), TOKENS, [hook])[1]
    torch.testing.assert_close(mean[hook][..., 0, :], own[..., 0, :].mean(0).expand(2, -1, -1))


def test_a_scale_of_zero_ablates_and_sharper_scores_sharpen():
    model = model_of()
    with torch.no_grad():
        cut = Transformer(model.config, seed=1).double()
        cut.blocks[1].attn.W_O[0] = 0
    torch.testing.assert_close(edited(model, dict(kind="scale", site="L1.H0.z", factor=0))(TOKENS), cut(TOKENS))
    flat = patterns(edited(model, dict(kind="scale", site="L0.scores", factor=0)))
    torch.testing.assert_close(flat, UNIFORM.expand(2, 3, 6, 6))
    sharp = patterns(edited(model, dict(kind="scale", site="L0.scores", factor=1e6)))
    assert float(sharp.amax(-1).min()) > 0.999
    assert edited(model, dict(kind="clamp", site="logits", to=2.5))(TOKENS).unique().tolist() == [2.5]


def test_gradients_through_scaled_scores_are_finite():
    model = model_of()
    edited(model, dict(kind="scale", site="L0.scores", factor=0.5))(TOKENS).sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())


def test_given_inputs_are_embeddings_of_this_or_the_previous_token():
    model = model_of()
    specs = [dict(kind="input", heads="L1.H1", fork="k", to="previous-token")]
    specs += [dict(kind="input", heads="L1.H1", fork="q", to="token")]
    _, values = record(edited(model, *specs), TOKENS, ["blocks.1.attn.hook_k", "blocks.1.attn.hook_q"])
    attn, norm = model.blocks[1].attn, model.blocks[1].ln1
    read = {"q": model.W_E[TOKENS], "k": model.W_E[torch.cat([TOKENS[:, :1], TOKENS[:, :-1]], 1)]}
    for fork, x in read.items():
        wanted = norm(x) @ getattr(attn, f"W_{fork.upper()}")[1] + getattr(attn, f"b_{fork.upper()}")[1]
        torch.testing.assert_close(values[f"blocks.1.attn.hook_{fork}"][:, :, 1], wanted)


def test_a_perfect_copy_writes_what_heads_attend_to():
    model = model_of()
    give = dict(kind="pattern", heads="L1.H0", to="induction")
    output = edited(model, give, dict(kind="copy", heads="L1.H0"))(TOKENS)
    output = output.detach()
    probability = output.exp()
    # At 1 2 1 3 1 the followers of 1 are 2 and 3, at 1 2 1 3 1 2 that of 2 is 1.
    assert probability[0, 4].tolist() == pytest.approx([0, 0, 0.5, 0.5, 0, 0, 0, 0], abs=1e-6)
    assert probability[0, 5].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 0, 0], abs=1e-6)
    assert float(output.min()) == pytest.approx(math.log(1e-9))
    changed = edited(model, give, dict(kind="copy", heads="L1.H0", to="stream"))
    result = record(changed, TOKENS, ["blocks.1.attn.hook_result"])[1]["blocks.1.attn.hook_result"]
    torch.testing.assert_close(result[0, 4, 0], (model.W_U[:, 2] + model.W_U[:, 3]) / 2)


def test_interventions_act_in_their_order():
    model = model_of()
    scale, clamp = dict(kind="scale", site="L0.z", factor=2), dict(kind="clamp", site="L0.z", to=3)
    values = [
        record(edited(model, *some), TOKENS, ["blocks.0.attn.hook_z"])[1] for some in [(scale, clamp), (clamp, scale)]
    ]
    assert [one["blocks.0.attn.hook_z"].unique().tolist() for one in values] == [[3], [6]]


def test_the_plain_model_is_left_alone():
    model = model_of()
    before = model(TOKENS)
    changed = edited(model, dict(kind="pattern", heads="L0", to="uniform"))
    assert not torch.equal(changed(TOKENS), before) and torch.equal(model(TOKENS), before)
    with pytest.raises(RuntimeError):
        changed(TOKENS[..., None].expand(2, 6, 2))
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def trainer(task, *specs: dict, **settings) -> Trainer:
    config = ModelConfig(**{**task.preset().model, "n_layers": 2, "n_heads": 2, "d_model": 8})
    chosen = TrainConfig(**{"steps": 20, "batch_size": 4, "lr": 0.01, "weight_decay": 0.1, **settings})
    return Trainer.of(task, config, chosen, seed=0, interventions=as_interventions(specs))


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in of.model.named_parameters()}


@pytest.mark.parametrize(
    ("part", "held"),
    [
        ("L0.H1", {f"blocks.0.attn.{name}": [1] for name in ("W_Q", "W_K", "W_V", "W_O")}),
        ("L1.k", {"blocks.1.attn.W_K": [0, 1]}),
        ("L1.H0.o", {"blocks.1.attn.W_O": [0]}),
        ("unembed", {"unembed.W_U": None}),
    ],
)
def test_a_frozen_part_keeps_every_bit_and_the_rest_trains(task, part, held):
    run = trainer(task, dict(kind="freeze", part=part, start=2, stop=5))
    steps = []
    for step in range(7):
        run.losses(step)
        steps.append(weights(run))
        run.step(step)
    for name in steps[0]:
        rows = held.get(name, [])
        for before, after, frozen in [(2, 5, True), (0, 2, False), (5, 6, False)]:
            one, two = steps[before][name], steps[after][name]
            same = one == two
            if rows is None:
                assert bool(same.all()) if frozen else not bool(same.any()), name
            else:
                of_rows = [row in rows and frozen for row in range(len(one))]
                assert [bool(row.all()) for row in same] == of_rows, name


def test_a_frozen_part_takes_no_share_of_the_clipped_norm(task):
    """Two roads: what is not frozen trains as if the gradient of the rest were zero."""
    one = trainer(task, dict(kind="freeze", part="embed"), clip=0.01)
    losses = one.losses(0)
    one.update(losses, 0)
    two = trainer(task, clip=0.01)
    two.model.embed.W_E.requires_grad_(False)
    two.step(0)
    for name, weight in weights(two).items():
        torch.testing.assert_close(weight, weights(one)[name], atol=0, rtol=0)


def test_reinitialised_weights_are_drawn_again_and_their_averages_are_zero(task):
    run = trainer(task, dict(kind="reinitialise", part="L1.H0.v", start=3, seed=5))
    for step in range(3):
        run.step(step)
    before = weights(run)
    run.losses(3)
    after, name = weights(run), "blocks.1.attn.W_V"
    drawn = {seed: run.model.untrained(seed).state_dict()[name][0] for seed in range(3)}
    assert not torch.equal(after[name][0], before[name][0]) and torch.equal(after[name][1], before[name][1])
    assert all(not torch.equal(after[name][0], other) for other in drawn.values())
    assert all(torch.equal(after[other], before[other]) for other in after if other != name)
    state = run.adam.state[run.model.blocks[1].attn.W_V]
    assert not state["exp_avg"][0].any() and not state["exp_avg_sq"][0].any() and bool(state["exp_avg"][1].all())
    again = trainer(task, dict(kind="reinitialise", part="L1.H0.v", start=3, seed=5))
    other = trainer(task, dict(kind="reinitialise", part="L1.H0.v", start=3, seed=6))
    for each in (again, other):
        for step in range(3):
            each.step(step)
        each.losses(3)
    assert torch.equal(weights(again)[name], after[name]) and not torch.equal(weights(other)[name], after[name])


@pytest.mark.parametrize("fork", ["q", "k", "v"])
def test_kept_forks_are_those_of_the_step_and_get_no_gradient(task, fork):
    run = trainer(task, dict(kind="keep", heads="L1", fork=fork, start=2))
    hook = f"blocks.1.attn.hook_{fork}"
    inputs = task.batch(3, 7).inputs
    for step in range(2):
        run.step(step)
    old = Transformer(run.model.config, seed=None)
    old.load_state_dict(run.model.state_dict())
    for step in range(2, 6):
        run.step(step)
    run.losses(6)
    assert run.course is not None and run.course._edited is not None
    kept = record(run.course._edited, inputs, [hook])[1][hook]
    assert torch.equal(kept, record(old, inputs, [hook])[1][hook])
    assert not torch.equal(kept, record(run.model, inputs, [hook])[1][hook])
    losses = run.losses(6)
    losses.mean.backward()
    assert not run.model.blocks[1].attn._weight(fork).grad.any()


def test_changed_settings_act_from_their_step(task):
    changes = dict(task={"segment": 3}, training={"lr": 0.5, "batch_size": 6, "weight_decay": 0.0, "data_seed": 9})
    run, plain = trainer(task, dict(kind="change", start=2, stop=4, **changes)), trainer(task)
    drawn = []
    for step in range(5):
        losses, wanted = run.losses(step), plain.losses(step)
        drawn.append(len(losses.batch))
        same = torch.equal(losses.batch.inputs, wanted.batch.inputs)
        assert same == (step not in (2, 3))
        run.update(losses, step)
        plain.update(wanted, step)
        group = run.adam.param_groups[0]
        assert (group["lr"], group["weight_decay"]) == ((0.5, 0.0) if step in (2, 3) else (0.01, 0.1))
        assert (losses.task == task) == (step not in (2, 3))
        if step < 2:
            assert all(torch.equal(one, weights(plain)[name]) for name, one in weights(run).items())
    assert drawn == [4, 4, 6, 6, 4]


def test_without_interventions_there_is_no_course(task):
    assert trainer(task).course is None
