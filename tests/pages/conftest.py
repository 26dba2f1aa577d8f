"""A study as a real run would leave it, made of sigmoids: two layers of four heads that learn induction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import Circuit, Graph
from mechinterp.curves import onset
from mechinterp.models import ModelConfig, Transformer
from mechinterp.studies import Study
from mechinterp.studies.causal import CircuitEvidence
from mechinterp.studies.evidence import pack_circuit
from mechinterp.studies.heads import pack_onsets
from mechinterp.studies.learning import pack_predictors
from mechinterp.studies.part import row
from mechinterp.tasks import Induction
from mechinterp.training import Recorder, Run, TrainConfig

TRAINING = TrainConfig(steps=1200, log_checkpoints=20, linear_checkpoints=40, lr=3e-3, weight_decay=0.1)
STEPS = np.array(TRAINING.checkpoint_steps)
GRAPH = Graph(2, 4, mlp=False)
CIRCUIT = Circuit(
    ["input->L0.H2.q", "input->L0.H2.k", "input->L0.H2.v"]
    + [
        f"{source}->L1.H{h}.{port}"
        for h in range(4)
        for source, port in (("L0.H2", "k"), ("input", "q"), ("input", "v"))
    ]
    + [f"L1.H{h}->logits" for h in range(4)]
)
HEADS = {"previous_token": ["L0.H2"], "induction": ["L1.H1", "L1.H3", "L1.H0", "L1.H2"]}


def rise(t0: float, low: float, high: float, width: float = 0.12, steps: np.ndarray = STEPS) -> np.ndarray:
    """A logistic in ln t, at every step."""
    with np.errstate(divide="ignore"):
        z = (np.log(steps.astype(float)) - np.log(t0)) / width
    return low + (high - low) * 0.5 * (1 + np.tanh(z / 2))


def fake_head_scores(rng: np.random.Generator) -> xr.DataArray:
    data = np.zeros((len(STEPS), 3, 2, 4))
    for h in range(4):
        data[:, 0, 0, h] = rise(180, 0.02, (0.04, 0.31, 0.91, 0.03)[h])
        data[:, 0, 1, h] = rise(400, 0.02, 0.05)
        data[:, 1, 0, h] = rise(300, 0.02, 0.03)
        data[:, 1, 1, h] = rise(230 + 8 * h, 0.02, (0.83, 0.90, 0.76, 0.86)[h])
        data[:, 2, 0, h] = rise(120, 0.03, (0.5, 0.03, 0.02, 0.22)[h])
        data[:, 2, 1, h] = rise(250, 0.02, 0.02)
    data += rng.normal(0, 0.006, data.shape)
    scores = ["previous_token", "induction", "duplicate_token"]
    coords = {"step": STEPS, "score": scores, "layer": [0, 1], "head": range(4)}
    return xr.DataArray(data.clip(0, 1), dims=["step", "score", "layer", "head"], coords=coords)


def fake_edge_effects(rng: np.random.Generator) -> xr.DataArray:
    names = [str(edge) for edge in GRAPH.edges]
    data = rng.normal(0, 0.03, (len(STEPS), len(names)))
    for i, edge in enumerate(GRAPH.edges):
        if edge in CIRCUIT:
            strong = edge.source.layer == 0 and edge.reader.layer == 1
            data[:, i] += rise(230, 0.0, 6.0 if strong else rng.uniform(1.0, 4.0))
        elif str(edge) in ("input->logits", "L0.H1->L1.H0.k"):
            data[:, i] -= rise(300, 0.0, 1.2)
    data[0] *= 0.05
    return xr.DataArray(data, dims=["step", "edge"], coords={"step": STEPS, "edge": names})


def fake_heads() -> xr.Dataset:
    """Scores that rank the heads of each type as in `HEADS`, and ten untrained models' best heads."""
    names = ["previous_token", "induction", "duplicate_token"]
    scores, of_type = np.full((3, 2, 4), 0.02), np.zeros((3, 2, 4), bool)
    for index, name in enumerate(names):
        for rank, head in enumerate(HEADS.get(name, [])):
            place = (index, int(head[1]), int(head[-1]))
            scores[place], of_type[place] = 0.9 - 0.03 * rank, True
    null = np.linspace([0.01, 0.01, 0.01], [0.09, 0.07, 0.08], 10).T
    dims = ("score", "layer", "head")
    parts = {"head_score": (dims, scores), "of_type": (dims, of_type), "null": (("score", "untrained"), null)}
    return xr.Dataset(parts, coords={"score": names}, attrs={"declared": list(HEADS)})


def fake_nodes(rng: np.random.Generator) -> xr.Dataset:
    roles = ["first_A", "first_B", "second_A", "answer"]
    effect = rng.normal(0, 0.2, (2, 4, 4, 64))
    effect[0, 2, 1] += 8.5
    effect[0, 1, 1] -= 1.2
    effect[1, :, 2] += np.array([3.0, 3.4, 2.1, 3.2])[:, None]
    data = xr.DataArray(effect, dims=["layer", "head", "role", "example"], coords={"role": roles})
    clean, corrupted = ("example", rng.normal(5, 0.3, 64)), ("example", rng.normal(-5, 0.3, 64))
    data = data.assign_coords(layer=[0, 1], head=range(4))
    return xr.Dataset({"effect": data, "clean": clean, "corrupted": corrupted}, attrs={"metric": "logit_diff"})


def fake_curve() -> xr.Dataset:
    k = np.arange(len(GRAPH.edges) + 1)
    size = np.minimum(k, 52)
    share = 1 - np.exp(-np.maximum(size - 6, 0) / 4.5)
    return xr.Dataset({"faithfulness": ("k", share), "size": ("k", size), "valid": True}, coords={"k": k})


def fake_evaluation(rng: np.random.Generator) -> xr.Dataset:
    null = np.clip(rng.normal(0.02, 0.05, 100), -0.1, 0.4)
    scalars = {"faithfulness": 0.94, "faithfulness_low": 0.91, "faithfulness_high": 0.97, "live_size": len(CIRCUIT)}
    return xr.Dataset({**scalars, "valid": True, "null_faithfulness": ("null", null)})


def fake_probe(rng: np.random.Generator, target: str, score: list[float], effect: list[float]) -> xr.Dataset:
    found: dict[str, Any] = {"rank": ("layer", [63, 63]), "clean": ("example", rng.normal(-0.003, 0.001, 256))}
    for name, values in {"score": score, "untrained": [0.22, 0.2], "shuffled": [0.02, 0.03]}.items():
        for part, shift in {"": 0.0, "_low": -0.015, "_high": 0.015}.items():
            found[name + part] = ("layer", [value + shift for value in values])
    for name, means in {"effect": effect, "effect_random": [0.02, 0.05]}.items():
        found[name] = (("layer", "example"), np.array(means)[:, None] + rng.normal(0, 0.1, (2, 256)))
    attrs = {"target": target, "site": "resid_post", "metric": "log_prob", "probe": "logistic, accuracy"}
    return xr.Dataset({**found, "majority": 0.03}, coords={"layer": [0, 1]}, attrs=attrs)


SHORT_FINDINGS = [
    {"name": "loss on repeats", "value": 0.0031, "low": 0.0028, "high": 0.0034, "null": 0.26, "unit": "nats",
     "note": "Null: a predictor that knows what followed earlier copies of the current token."},
    {"name": "previous-token head L0.H2, score", "value": 0.912, "low": 0.905, "high": 0.918, "null": 0.087,
     "where": "step 1200", "note": "Chosen on other data; the null is the best of an untrained model's eight heads."},
    {"name": "previous-token head appeared", "value": 181.0, "low": 175.0, "high": 188.0, "unit": "steps"},
    {"name": "induction head L1.H1, score", "value": 0.897, "low": 0.884, "high": 0.91, "null": 0.071,
     "note": "Four heads share this type."},
    {"name": "induction head appeared", "value": 238.0, "low": 230.0, "high": 246.0, "unit": "steps"},
    {"name": "edges in the circuit", "value": 19, "null": "of 52 live edges"},
    {"name": "gap recovered by the circuit", "value": 0.94, "low": 0.91, "high": 0.97, "null": 0.11, "unit": "%"},
    {"name": "gap lost when it is removed", "value": 0.993, "low": 0.98, "high": 1.0, "unit": "%"},
]  # fmt: skip
FINDINGS = [row("", None) | finding for finding in SHORT_FINDINGS]


@pytest.fixture(scope="session")
def study() -> Study:
    rng = np.random.default_rng(0)
    scores, effects = fake_head_scores(rng), fake_edge_effects(rng)
    loss = xr.DataArray(np.stack([rise(240, 4.2, 0.003), rise(60, 4.25, 3.6)], 1), dims=["step", "group"])
    timeline = xr.Dataset(
        {
            "loss": loss.assign_coords(step=STEPS, group=["repeat", "fresh"]),
            "loss_se": xr.full_like(loss, 0.02),
            "head_scores": scores,
            "head_scores_se": xr.full_like(scores, 0.008),
            "edge_effects": effects,
            "edge_effects_se": xr.full_like(effects, 0.03),
        }
    )
    onsets = {
        "previous token L0.H2": onset(scores.sel(score="previous_token", layer=0, head=2, drop=True)),
        "induction L1.H1": onset(scores.sel(score="induction", layer=1, head=1, drop=True)),
        "duplicate token": onset(scores.sel(score="duplicate_token", layer=1, head=0, drop=True)),
    }
    probes = {
        "previous_token": fake_probe(rng, "previous_token", [0.97, 0.9], [3.2, 0.4]),
        "induction_target": fake_probe(rng, "induction_target", [0.1, 0.96], [0.03, 2.5]),
        "is_repeat": fake_probe(rng, "is_repeat", [0.8, 0.93], [0.01, 0.02]),
    }
    predictors = {"uniform": 4.16, "seen tokens": 3.75, "position only": 3.97, "one-token match": 0.26}
    return Study(
        parts={
            "timeline": timeline,
            "predictors": pack_predictors(predictors),
            "heads": fake_heads(),
            "onsets": pack_onsets(onsets),
            "circuit": pack_circuit(CircuitEvidence("yes", "all conditions hold", CIRCUIT, 17)),
            "nodes": fake_nodes(rng),
            "evaluation": fake_evaluation(rng),
            "curve": fake_curve(),
            **{f"probe-{name}": result for name, result in probes.items()},
        },
        findings=FINDINGS,
        settings={"seed": 0, "examples": 128, "nulls": 100},
        verdict="A circuit of 19 of 52 live edges recovers 94% of the behaviour; it formed between steps 181 and 238.",
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A Run folder with invented metrics; its weights are never looked at."""
    rng = np.random.default_rng(1)
    task = Induction()
    config = ModelConfig(n_layers=2, n_heads=4, d_model=64, d_vocab=64, n_ctx=64, positions="rotary")
    steps = np.arange(0, 1201, 5)
    repeat = rise(240, 4.2, 0.003, 0.1, steps) * rng.normal(1, 0.02, len(steps))
    fresh = rise(60, 4.25, 3.6, 0.4, steps) * rng.normal(1, 0.005, len(steps))
    path: Path = tmp_path_factory.mktemp("runs") / "induction-0"
    with Recorder(path, Transformer(config), task, training=TRAINING, seed=0) as rec:
        for step, a, b in zip(steps.tolist(), repeat.tolist(), fresh.tolist(), strict=True):
            rec(step, loss=a, loss_repeat=a, loss_fresh=b)
    return Run(path)
