"""After any analysis, also one that raised, the model has no hooks; weights, mode and gradients are untouched."""

import random

import torch

from mechinterp.core import METRICS, Circuit
from mechinterp.interventions import record, run_edited, score_circuits
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes, path_patch


class Interrupted(Exception):
    pass


def failing_metric(draw, fails):
    """A metric that raises at some call of its own, in the middle of the analysis."""
    left = draw.randint(0, 2)

    def scored(output, batch, reference=None):
        nonlocal left
        if fails and left == 0:
            raise Interrupted
        left -= 1
        return METRICS["logit_diff"](output, batch, reference)

    return scored


def call_something(draw, model, pair, fails):
    """One analysis, drawn at random."""

    def edit(value):
        if fails:
            raise Interrupted
        return value

    metric = failing_metric(draw, fails)
    kind, at = draw.choice(["z", "q", "pattern", "resid_pre", "attn"]), draw.choice(["pos", "role", "all"])
    direction = draw.choice(["noise", "denoise"])
    match draw.randint(0, 7):
        case 0:
            patch_nodes(model, pair, site=kind, at=at, metric=metric, direction=direction)
        case 1:
            patch_edges(model, pair, direction=direction, metric=metric, edges=["L0.H0->L1.H1.k", "L1.H0->logits"])
        case 2:
            path_patch(model, pair, ["L0.H1"], ["L1.H0.v", "logits"], metric=metric, direction=direction)
        case 3:
            estimate_edges(model, pair, method="eap-ig", steps=2, metric=metric)
        case 4:
            estimate_nodes(model, pair, site=kind, at=at, metric=metric, direction=direction)
        case 5:
            score_circuits(model, pair, [Circuit(["L0.H0->L1.H1.k"])], metric=metric)
        case 6:
            run_edited(model, pair.clean.inputs, {"blocks.1.attn.hook_z": edit})
        case _:
            record(model, pair.clean.inputs, ["L1.zz" if fails else "L1.z"])


def test_a_thousand_random_calls_leave_no_trace(make_model, make_pair):
    models = [make_model(seed=i, d_mlp=4 * (i % 2), n_layers=2, d_model=8) for i in range(3)]
    pair = make_pair(batch=2, seq=5)
    before = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in models]
    draw, raised = random.Random(0), 0
    for call in range(1000):
        model = draw.choice(models)
        model.train(draw.random() < 0.5)
        mode = model.training
        try:
            call_something(draw, model, pair, fails=draw.random() < 0.3)
        except (Interrupted, LookupError):
            raised += 1
        assert model.training is mode, call
        assert not any(p._forward_hooks or p._backward_hooks for p in model.hook_points()), call
        assert torch.is_grad_enabled()
    assert raised >= 200
    for model, weights in zip(models, before, strict=True):
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
