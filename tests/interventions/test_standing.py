"""A model under standing edits: what analyses see of it, and that they leave it as it was."""

import pytest
import torch

from mechinterp.attribution import head_scores
from mechinterp.core import SiteError, UnsupportedError
from mechinterp.interventions import EditedTransformer, StandingEdits, record, run_edited
from mechinterp.patching import estimate_edges, patch_edges, patch_nodes

HOOK, LATE = "blocks.0.attn.hook_z", "blocks.1.attn.hook_z"


def halve(now, value):
    return value / 2


@pytest.fixture
def models(make_model):
    plain = make_model()
    return plain, EditedTransformer(plain, StandingEdits([(HOOK, halve)], [lambda now, output: output + 1]))


def test_it_equals_a_run_with_these_hooks(models, make_pair):
    plain, edited = models
    tokens = make_pair().clean.inputs
    wanted = run_edited(plain, tokens, {HOOK: lambda value: value / 2}) + 1
    with torch.no_grad():
        assert torch.equal(edited(tokens), wanted)
        assert not torch.equal(plain(tokens) + 1, wanted)


def test_what_is_recorded_is_what_the_edits_leave_and_later_edits_come_after(models, make_pair):
    plain, edited = models
    tokens = make_pair().clean.inputs
    own, left = (record(model, tokens, [HOOK])[1][HOOK] for model in (plain, edited))
    assert torch.equal(left, own / 2)
    output = run_edited(edited, tokens, {HOOK: lambda value: value * 2})
    torch.testing.assert_close(output, plain(tokens) + 1)


def test_node_effects_are_those_of_a_loop_by_hand(models, make_pair):
    plain, edited = models
    pair = make_pair(seed=3)
    effects = patch_nodes(edited, pair, site="z", at="all", metric="logit_diff", direction="denoise")["effect"]
    _, clean = record(edited, pair.clean.inputs, [LATE])
    base = run_edited(edited, pair.corrupted.inputs, {})
    from mechinterp.core import resolve_metric

    metric = resolve_metric("logit_diff")[1]

    def patched(value):
        value = value.clone()
        value[:, :, 1] = clean[LATE][:, :, 1]
        return value

    hooks = {HOOK: lambda value: value / 2, LATE: patched}
    output = run_edited(plain, pair.corrupted.inputs, hooks) + 1
    wanted = metric(output, pair.clean, base) - metric(base, pair.clean, base)
    assert effects.sel(layer=1, head=1).values == pytest.approx(wanted.detach().numpy(), abs=1e-9)


def test_what_needs_the_plain_model_refuses_it(models, make_pair):
    _, edited = models
    with pytest.raises(UnsupportedError, match="exact edge effects need the plain model: this one is run under"):
        patch_edges(edited, make_pair())
    with pytest.raises(UnsupportedError):
        estimate_edges(edited, make_pair())


def test_it_is_left_as_it_was(models, make_pair):
    plain, edited = models
    plain.train()
    tokens = make_pair().clean.inputs
    record(edited, tokens, [HOOK])
    assert plain.training and not any(point._forward_hooks for point in plain.hook_dict.values())
    edited.model.add_hook(HOOK, lambda value, hook: value)
    with pytest.raises(UnsupportedError, match="the model still has hooks on"):
        record(edited, tokens, [HOOK])
    plain.reset_hooks()


def test_its_null_is_under_the_same_edits(models, make_pair):
    plain, edited = models
    tokens = make_pair().clean.inputs
    with torch.no_grad():
        null = edited.untrained(4)
        assert torch.equal(null(tokens), EditedTransformer(plain.untrained(4), edited.edits)(tokens))
    assert head_scores(null, make_pair().clean).sizes["layer"] == 3


def test_a_misspelt_hook_is_named(make_model):
    with pytest.raises(SiteError, match=r"no hook 'blocks.0.attn.hook_zz'"):
        EditedTransformer(make_model(), StandingEdits([("blocks.0.attn.hook_zz", halve)]))
