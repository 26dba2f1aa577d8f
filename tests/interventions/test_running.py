"""Record, edit, resume, run circuits: identities, and a second road to each number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechinterp.core import Circuit, ConfigError, Edge, SiteError, UnsupportedError, generator
from mechinterp.interventions import (
    BaseRun,
    Start,
    activations,
    record,
    resume,
    run_edited,
    score_circuits,
    score_runs,
    source_values,
    take,
)


def test_recording_gives_the_cache(make_model, make_pair):
    model, inputs = make_model(), make_pair().clean.inputs
    _, cache = model.run_with_cache(inputs)
    output, kept = record(model, inputs, ["blocks.1.attn.hook_z", "L0.resid_post"])
    torch.testing.assert_close(output, model(inputs))
    assert set(kept) == {
        "blocks.1.attn.hook_z",
        "blocks.0.hook_resid_post",
    }
    for name in kept:
        torch.testing.assert_close(kept[name], cache[name])


def test_editing_with_the_same_value_changes_nothing(make_model, make_pair):
    model, inputs = make_model(d_mlp=5), make_pair().clean.inputs
    output, kept = record(model, inputs, list(model.hook_dict))
    for name, value in kept.items():
        torch.testing.assert_close(run_edited(model, inputs, {name: lambda _, value=value: value}), output)


def test_a_bad_hook_name_is_an_error_and_leaves_no_hook(make_model, make_pair):
    model, inputs = make_model(), make_pair().clean.inputs
    with pytest.raises(SiteError, match=r"Did you mean 'blocks.1.attn.hook_z'"):
        record(model, inputs, ["blocks.1.attn.hok_z"])

    def fail(value):
        raise RuntimeError("in the middle")

    model.train()
    with pytest.raises(RuntimeError, match="in the middle"):
        run_edited(model, inputs, {"blocks.1.attn.hook_z": fail})
    assert model.training and not any(point._forward_hooks for point in model.hook_points())
    with pytest.raises(UnsupportedError, match="no hook points"):
        record(torch.nn.Linear(2, 2), inputs, ["x"])


def test_left_over_hooks_are_refused(make_model, make_pair):
    model, pair = make_model(seed=5), make_pair()
    model.add_hook("blocks.0.attn.hook_z", lambda value, hook: value * 0)
    with pytest.raises(UnsupportedError, match=r"still has hooks on blocks.0.attn.hook_z"):
        score_circuits(model, pair, [Circuit()])
    model.reset_hooks()


@given(st.data(), st.sampled_from([0, 2]))
def test_sources_and_biases_sum_to_the_stream(make_model, make_pair, architectures, data, readout):
    settings = data.draw(architectures)
    if settings["act_fn"] != "solu_ln":
        settings = {**settings, "readout_layers": readout}
    model = make_model(**settings)
    acts = activations(model, make_pair().clean.inputs)
    biases = model.accumulated_bias(model.config.n_layers)
    written = [block.attn.bias for block in model.blocks] + [block.mlp.bias for block in model.blocks if block.has_mlp]
    torch.testing.assert_close(biases, sum([bias for bias in written if bias is not None], torch.zeros_like(biases)))
    for inputs in ("merged", "split"):
        total = source_values(model, acts, model.config.graph(inputs)).sum(0) + biases
        torch.testing.assert_close(total, acts.final, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.read(acts.final), model(make_pair().clean.inputs), rtol=1e-9, atol=1e-9)


@given(st.data(), st.integers(0, 8), st.booleans())
def test_resuming_reaches_the_same_output(make_model, make_pair, architectures, data, start, one_scored):
    """From every layer and every first position, also with one scored position per example."""
    settings = {**data.draw(architectures), "n_layers": 3}
    model, pair = make_model(**settings), make_pair(one_scored=one_scored, pad=settings["pad_token"])
    start = start if settings["causal"] else 0
    acts = activations(model, pair.clean.inputs)
    _, positions, _ = pair.clean.at_scored()
    base = BaseRun.of(model, acts, positions)
    expected = take(model(pair.clean.inputs), positions).expand(2, -1, -1, -1)
    for layer in range(4):
        for stage in ("pre", "mid") if layer < 3 else ("pre",):
            at = base.acts.where.since(start)
            values = at.take(base.stream(layer, stage)).expand(2, -1, -1, -1)
            actual = resume(base, Start(layer, stage, values, at))
            torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@given(st.data(), st.sampled_from(["merged", "split"]))
def test_the_whole_and_the_empty_circuit_are_the_two_runs(make_model, make_pair, architectures, data, inputs):
    settings = data.draw(architectures)
    model, pair = make_model(**settings), make_pair(batch=40, pad=settings["pad_token"])  # more than run together
    graph = model.config.graph(inputs)
    whole, empty = score_circuits(model, pair, [Circuit(graph.edges, inputs), Circuit([], inputs)])
    clean, corrupted = score_runs(model, pair)
    torch.testing.assert_close(whole, clean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(empty, corrupted, rtol=1e-8, atol=1e-8)


@given(st.data(), st.sampled_from(["resample", "zero", "mean", "mean-pos"]))
def test_circuits_agree_with_a_hooked_run(make_model, make_pair, architectures, data, ablation):
    """Second road: each reader's input is put together by hooks on the forks, one reader at a time."""
    settings = {**data.draw(architectures), "positions": "learned", "n_layers": 3}
    model, pair = make_model(**settings), make_pair(pad=settings["pad_token"])
    graph = model.config.graph("split")
    pick = torch.rand(len(graph.edges), generator=generator(0, "circuit")) < 0.5
    circuit = Circuit([edge for edge, use in zip(graph.edges, pick, strict=True) if use], "split")
    reference = source_values(model, activations(model, pair.corrupted.inputs), graph)
    if ablation == "zero":
        reference = torch.zeros_like(reference)
    elif ablation != "resample":
        dims = [1] if ablation == "mean" else [1, 2]
        reference = reference.mean(dims, keepdim=True).expand_as(reference)
    live = dict(zip(graph.sources, reference.clone(), strict=True))
    row = {site: i for i, site in enumerate(graph.sources)}
    biases = torch.zeros_like(reference[0])

    def view(reader, many):
        total = biases.clone()
        if reader.kind == "mlp" and graph.parallel and model.blocks[reader.layer].attn.bias is not None:
            total = total - model.blocks[reader.layer].attn.bias  # written by now, and not read here
        for source in graph.incoming(reader):
            total = total + (live[source] if Edge(source, reader) in circuit.edges else reference[row[source]])
        return total

    def edit(readers):
        def at(value, hook):
            views = [view(reader, value) for reader in readers]
            return torch.stack(views, 2) if value.ndim == 4 else views[0]

        return at

    hooks = []
    by_hook: dict[str, list] = {}
    for reader in graph.readers:
        name = "blocks.2.hook_resid_post" if reader.kind == "logits" else Edge(graph.sources[0], reader).hook
        by_hook.setdefault(name, []).append(reader)
    for name, readers in by_hook.items():
        hooks.append((name, edit(readers)))
    for layer, block in enumerate(model.blocks):

        def keep_heads(value, hook, layer=layer, block=block):
            for head in range(graph.n_heads):
                live[graph.writers(layer)[head]] = value[:, :, head]
            biases.add_(0 if block.attn.bias is None else block.attn.bias)

        def keep_mlp(value, hook, layer=layer, block=block):
            bias = 0 if block.mlp.bias is None else block.mlp.bias
            live[graph.writers(layer)[-1]] = value - bias
            biases.add_(bias)

        hooks += [(f"blocks.{layer}.attn.hook_result", keep_heads)]
        hooks += [(f"blocks.{layer}.hook_mlp_out", keep_mlp)] if block.has_mlp else []
    live[graph.sources[0]] = model.W_E[pair.clean.inputs]
    live[graph.sources[1]] = model.W_pos[:9].expand(4, -1, -1)
    output = model.run_with_hooks(pair.clean.inputs, fwd_hooks=hooks)
    from mechinterp.core import METRICS

    expected = METRICS["logit_diff"](output, pair.clean, None)
    actual = score_circuits(model, pair, [circuit], ablation=ablation, budget_mb=0.001)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_bad_circuits_are_one_clear_line(make_model, make_pair):
    model, pair = make_model(), make_pair()
    with pytest.raises(SiteError, match=r"no edge 'L0.H0->L3.H0.q'"):
        score_circuits(model, pair, [Circuit(["L0.H0->L3.H0.q"])])
    with pytest.raises(ConfigError, match="mix"):
        score_circuits(model, pair, [Circuit(), Circuit([], "split")])
    with pytest.raises(ConfigError, match="Did you mean 'resample'"):
        score_circuits(model, pair, [Circuit()], ablation="resampled")
