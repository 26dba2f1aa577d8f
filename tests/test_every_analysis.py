"""Every public analysis on every model that ships and on every model whose circuit is known.

Each gives a result, or one line that says why it cannot; and the refusals are those that the model's kind explains.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch

import mechinterp as mi
from mechinterp.claims.shipped import circuit_names
from mechinterp.discovery.discover import METHODS

ROOMS = ("attribution", "discovery", "evaluation", "known", "models", "patching", "probes")
EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with examples of its task."""

    model: mi.Transformer
    pair: mi.Pair
    other: mi.Pair
    circuit: mi.Circuit
    task: mi.tasks.Task | None = None
    metric: str | None = None

    @property
    def inputs(self) -> str:
        return self.circuit.inputs

    @property
    def edges(self) -> list[str]:
        return [str(edge) for edge in self.model.config.graph(self.inputs).edges]


def _of_tokens(one: Subject) -> bool:
    """Whether tokens go in and logits come out, with nothing between the stream and the unembedding."""
    config = one.model.config
    return (config.inputs, config.outputs, config.readout_layers) == ("tokens", "logits", 0)


def _outputs(one: Subject) -> int:
    return one.model.config.features_out


def _patch(name: str, **options: object) -> Callable[[Subject], object]:
    """A function of patching on the subject's pair."""
    function = getattr(mi.patching, name)
    return lambda one: function(one.model, one.pair, metric=one.metric, **options)


def _judge(name: str, **options: object) -> Callable[[Subject], object]:
    function = getattr(mi.evaluation, name)
    return lambda one: function(one.model, one.other, one.circuit, metric=one.metric, **options)


def _curve(name: str, **options: object) -> Callable[[Subject], object]:
    def call(one: Subject) -> object:
        scores = {edge: float(edge in one.circuit) for edge in one.edges}
        return getattr(mi.evaluation, name)(one.model, one.other, scores, metric=one.metric, **options)

    return call


def _states(name: str, **options: object) -> Callable[[Subject], object]:
    function = getattr(mi.evaluation, name)
    return lambda one: function(one.model, one.pair, metric=one.metric, inputs=one.inputs, **options)


def _discover(**options: object) -> Callable[[Subject], object]:
    return lambda one: mi.discover(one.model, one.pair, metric=one.metric, inputs=one.inputs, **options)


def _probe(one: Subject) -> object:
    return mi.probe(one.model, one.task, next(iter(one.task.latents)), examples=32, positions=64)


_SEARCHES = {"acdc": {}, "smallest": {"limit": 20}, "edge-pruning": {"k": 3, "steps": 3}}
"""Searches that are asked for something else than three edges."""
CALLS: dict[str, dict[str, Callable[[Subject], object]]] = {
    "attribution.composition": {"": lambda one: mi.attribution.composition(one.model, draws=5)},
    "attribution.copying_scores": {"": lambda one: mi.attribution.copying_scores(one.model, permutations=5)},
    "attribution.gradient_symmetricity": {
        "": lambda one: mi.attribution.gradient_symmetricity(
            one.model, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        )
    },
    "attribution.head_scores": {"": lambda one: mi.head_scores(one.model, one.pair.clean)},
    "attribution.head_types": {
        "": lambda one: mi.attribution.head_types(one.model, one.task, seed=0, examples=EXAMPLES, untrained=1)
    },
    "attribution.logit_attribution": {
        inputs: lambda one, inputs=inputs: mi.logit_attribution(one.model, one.pair.clean, inputs=inputs)
        for inputs in ("merged", "split")
    },
    "attribution.logit_lens": {"": lambda one: mi.attribution.logit_lens(one.model, one.pair.clean)},
    "attribution.ov_circuit": {"": lambda one: mi.attribution.ov_circuit(one.model)},
    "attribution.qk_circuit": {"": lambda one: mi.attribution.qk_circuit(one.model)},
    "attribution.qk_effective_rank": {"": lambda one: mi.attribution.qk_effective_rank(one.model)},
    "attribution.value_weighted_attention": {
        "": lambda one: mi.attribution.value_weighted_attention(one.model, one.pair.clean)
    },
    "discovery.discover": {method: _discover(method=method, **_SEARCHES.get(method, {"k": 3})) for method in METHODS},
    "evaluation.ability": {"": lambda one: mi.evaluation.ability(one.model, one.other)},
    "evaluation.cpr_cmd": {"": _curve("cpr_cmd")},
    "evaluation.curve": {"": _curve("curve", ks=[1, 3])},
    "evaluation.edge_states": {"zero": _states("edge_states", ablation="zero")},
    "evaluation.evaluate": {"zero": _judge("evaluate", nulls=2, untrained=0, subsets=1, ablation="zero")},
    "evaluation.hypothesis_tests": {"zero": _judge("hypothesis_tests", nulls=3, ablation="zero")},
    "evaluation.live_edges": {"mean": _states("live_edges", ablation="mean")},
    "evaluation.minimality": {"": _judge("minimality")},
    "evaluation.redundancy": {"mean-pos": _judge("redundancy", ablation="mean-pos")},
    "known.gradient_step": {"": lambda one: mi.known.gradient_step(one.model, pairs=4)},
    "models.to_bridge": {"": lambda one: mi.to_bridge(one.model)},
    "patching.estimate_edges": {
        method: _patch("estimate_edges", method=method, steps=2)
        for method in ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted")
    },
    "patching.estimate_nodes": {at: _patch("estimate_nodes", at=at) for at in ("pos", "role")},
    "patching.patch_edge_pairs": {
        "": lambda one: mi.patching.patch_edge_pairs(
            one.model, one.pair, one.edges[-3:], metric=one.metric, inputs=one.inputs
        )
    },
    "patching.patch_edges": {
        "noise": _patch("patch_edges", direction="noise", inputs="merged"),
        "denoise": _patch("patch_edges", direction="denoise", inputs="split"),
    },
    "patching.patch_nodes": {
        f"{site} {at}": _patch("patch_nodes", site=site, at=at)
        for site, at in (("z", "pos"), ("z", "role"), ("resid_post", "all"), ("mlp", "all"), ("pattern", "all"))
    },
    "patching.path_patch": {"": _patch("path_patch", senders=["L0.H0"], receivers=["logits"])},
    "patching.pattern_gradient": {
        "": lambda one: mi.patching.pattern_gradient(one.model, one.pair.clean, metric=one.metric or "log_prob")
    },
    "probes.probe": {"": _probe},
    "probes.read_and_erase": {
        "": lambda one: mi.probes.read_and_erase(one.model, one.task, seed=0, examples=32, positions=64)
    },
    "probes.ridge_scores": {
        "": lambda one: mi.probes.ridge_scores(one.model, one.task, seed=0, examples=32, positions=64)
    },
}
"""Public function -> how it is called, by what is asked of it."""
LACKS: dict[str, Callable[[Subject], bool]] = {
    "attribution.composition": lambda one: one.model.config.n_layers == 1,
    "attribution.copying_scores": lambda one: not _of_tokens(one) or one.model.config.d_vocab != _outputs(one),
    "attribution.gradient_symmetricity": lambda one: not _of_tokens(one),
    "attribution.head_types": lambda one: one.model.config.inputs == "vectors",
    "attribution.logit_attribution": lambda one: not _of_tokens(one),
    "attribution.logit_lens": lambda one: one.model.config.outputs == "values",
    "attribution.ov_circuit": lambda one: not _of_tokens(one),
    "attribution.qk_circuit": lambda one: not _of_tokens(one),
    # On four examples there may be no gap, and twenty circuits are few.
    "discovery.discover smallest": lambda one: True,
    "known.gradient_step": lambda one: one.model.config.attention == "softmax",
    "models.to_bridge": lambda one: one.model.config.inputs == "vectors" or one.model.config.attention == "linear",
    "patching.estimate_nodes role": lambda one: not one.pair.clean.roles,
    "patching.patch_nodes mlp": lambda one: not one.model.config.d_mlp,
    "patching.patch_nodes z role": lambda one: not one.pair.clean.roles,
    "patching.pattern_gradient": lambda one: one.model.config.outputs == "values",
}
"""What may be refused -> what such a model lacks."""
OF_TASKS = ("attribution.head_types", "probes.probe", "probes.read_and_erase", "probes.ridge_scores")
"""What needs a task, which a model that is made by hand has not."""


FOREIGN = ("models.from_hf",)
"""Functions whose argument `model` is of another library."""


def public_analyses() -> list[str]:
    """All public functions whose first argument is a model."""
    names = []
    for room in ROOMS:
        module = importlib.import_module(f"mechinterp.{room}")
        functions = {name: getattr(module, name) for name in module.__all__}
        names += [
            f"{room}.{name}"
            for name, function in functions.items()
            if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "model"
        ]
    return [name for name in names if name not in FOREIGN]


@cache
def shipped(name: str) -> mi.claims.LoadedCircuit:
    return mi.load_circuit(name)


def models() -> Iterator[str]:
    for name in circuit_names():
        yield from (f"{name}: {model}" for model in shipped(name).models)
    yield from mi.known.known_models()


def subject(name: str) -> Subject:
    folder, _, model = name.partition(": ")
    if model:
        whole = shipped(folder)
        one = whole.models[model]
        pairs = [one.task.pair(EXAMPLES, seed) for seed in (1, 2)]
        edges = [edge for edge in whole.circuit if edge in one.final.config.graph().edges]
        return Subject(one.final, *pairs, mi.Circuit(edges), one.task)
    known = mi.known.known_models()[name].build(inert_heads=0)
    return Subject(known.model, known.pair(EXAMPLES, 1), known.pair(EXAMPLES, 2), known.circuit, None, known.metric)


def test_every_public_analysis_is_called_here():
    assert sorted(CALLS) == sorted(public_analyses())


@pytest.mark.parametrize("name", list(models()))
def test_it_works_or_says_in_one_line_why_not(name):
    one = subject(name)
    refused = {}
    for analysis, calls in CALLS.items():
        if one.task is None and analysis in OF_TASKS:
            continue
        for asked, call in calls.items():
            try:
                assert call(one) is not None
            except mi.core.MechinterpError as error:
                refused[f"{analysis} {asked}".strip()] = str(error)
    assert all("\n" not in line and len(line) > 20 for line in refused.values()), refused
    unexplained = [
        what for what in refused if not any(what.startswith(start) and why(one) for start, why in LACKS.items())
    ]
    assert not unexplained, {what: refused[what] for what in unexplained}
