"""Compiled programs: outputs are the program's on every input, and patching sees exactly the edges it should."""

import json

import numpy as np
import pytest
import torch

from mechinterp.core import Batch, Circuit, ConfigError, Pair
from mechinterp.interventions import score_circuits
from mechinterp.known import compiled_model, compiled_names
from mechinterp.known.compiled.load import WEIGHTS, compiled_program
from mechinterp.known.compiled.programs import RUNS
from mechinterp.patching import patch_edges

NAMES = compiled_names()


@pytest.fixture(scope="module", params=NAMES)
def made(request):
    return compiled_model(request.param, inert_heads=1, seed=2)


def test_every_program_ships():
    assert sorted(RUNS) == NAMES and len(NAMES) == 8
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 1e6


@pytest.mark.parametrize(
    ("name", "tokens", "answers"),
    [
        ("reverse", "abcc", ["c", "c", "b", "a"]),
        ("sort", [3, 1, 2, 1], [1, 1, 2, 3]),
        ("histogram", "abad", [2, 1, 2, 1]),
        ("duplicates", "abad", [True, False, True, False]),
        ("induction", "abcab", [None, None, None, "b", "c"]),
        ("induction", "aa", [None, "a"]),
        ("fraction_previous", "xyx", [1, 1 / 2, 2 / 3]),
        ("pair_balance", "(x))", [1, 1 / 2, 0, -1 / 4]),
        ("dyck_1", "(())()", [True] * 6),
        ("dyck_1", "())(", [False] * 4),
        ("dyck_1", "((", [False] * 2),
    ],
)
def test_the_reference_says_what_is_meant(name, tokens, answers):
    assert compiled_model(name).run(list(tokens)) == pytest.approx(answers)


def test_outputs_are_the_programs_on_every_sequence_of_every_length(made):
    program, count = made.program, 0
    for length in range(1, program.length + 1):
        words = program.sequences(length)
        with torch.no_grad():
            outputs = made.model(program.inputs(words))[:, 1:]
        torch.testing.assert_close(outputs, program.targets(words)[:, 1:], rtol=0, atol=1e-9)
        count += len(words)
        if program.outputs is not None:
            # The words again, by the road of a reader: the largest output, or nothing.
            said = [[None if row.max() < 0.5 else program.outputs[row.argmax()] for row in rows] for rows in outputs]
            assert said == [program.run(tokens) for tokens in words]
    vocabulary = len(program.vocabulary)
    every = sum(vocabulary**length for length in range(1, program.length + 1))
    assert count == (2324 if program.name == "induction" else every)


def test_exact_patching_sees_what_each_exam_says_and_nothing_else(made):
    for (ablation, corruption, direction), seen in made.exams.items():
        pair = made.pair(64, 9, corruption)
        effect = patch_edges(
            made.model, pair, direction=direction, ablation=ablation, metric=made.metric, inputs="split"
        )["effect"]
        size = np.abs(effect).max("example").to_series()
        names = [str(edge) for edge in seen]
        assert size[names].min() > 0.02 and size.drop(names).max() < 1e-9, (ablation, direction)


def everywhere(program, length):
    """Some sequences of a length, every word scored."""
    words = program.sequences(length)
    words = words[:: max(1, len(words) // 100)]
    inputs = program.inputs(words)
    batch = Batch(inputs, program.targets(words), inputs > 0)
    return Pair(batch, batch)


def test_every_edge_of_the_circuit_matters_and_all_others_together_do_not(made):
    size = 0.0
    for length in (made.program.length - 1, made.program.length):
        pair = everywhere(made.program, length)
        for ablation in ("zero", "mean-pos"):
            effect = patch_edges(made.model, pair, direction="noise", ablation=ablation, metric="mse", inputs="split")[
                "effect"
            ]
            size = np.maximum(size, effect.max("example").to_series())
            alone = score_circuits(made.model, pair, [made.circuit], metric="mse", ablation=ablation)
            # What never changes an output alone, changes none with the others of its kind: outputs are the clean ones.
            assert alone.abs().max() < 1e-9
    true = [str(edge) for edge in made.circuit]
    assert size[true].min() > 0.02 and size.drop(true).abs().max() < 1e-9


def test_what_the_compiler_drew_and_is_not_true(made):
    assert not made.circuit.edges & made.not_true.keys() and made.carries.keys() == made.circuit.edges
    assert set(made.not_true.values()) <= {"its weights multiply to zero", "never changes an output"}
    assert made.circuit == made.circuit.pruned()


@pytest.mark.parametrize("name", NAMES)
def test_patching_agrees_with_the_argument_from_the_graph(name):
    """A source that is equal in both runs has no effect: what differs, less what is hidden for a stated reason."""
    data = json.loads((WEIGHTS / f"{name}.json").read_text())
    assert set(data["seen"]) == set(data["differs"]) and len(data["seen"]) == 5
    for exam, seen in data["seen"].items():
        hidden = data["hidden"].get(exam, {})
        assert set(seen) | set(hidden) == set(data["differs"][exam]) and not set(seen) & set(hidden)
    assert set(data["differs"]["zero, noise"]) == set(data["edges"])
    tokens = {edge for edge, one in data["edges"].items() if one["varies"] == "tokens"}
    for exam in ("resample, noise", "resample, denoise", "mean, noise"):
        assert set(data["seen"][exam]) == tokens
    assert data["effects"]["smallest_seen"] > 0.02 and data["effects"]["largest_unseen"] < 1e-20
    assert data["vocabulary"] == list(compiled_program(name).vocabulary) and data["says"] == compiled_program(name).says


def test_the_circuits_are_those_of_the_algorithms():
    """Induction: the hand-made model's seven edges, and three that tell a head to rest on the starting token."""
    made = compiled_model("induction", rotate=False)
    wires = {str(edge): made.carries[edge] for edge in made.circuit}
    algorithm = {
        "pos->L0.H0.q": ("indices",), "pos->L0.H0.k": ("indices",), "embed->L0.H0.v": ("tokens",),
        "L0.H0->L1.H0.k": ("previous",), "embed->L1.H0.q": ("one", "tokens"), "embed->L1.H0.v": ("tokens",),
        "L1.H0->logits": ("induction",),
    }  # fmt: skip
    rest = {"embed->L0.H0.q": ("one",), "embed->L0.H0.k": ("start",), "embed->L1.H0.k": ("start",)}
    assert wires == algorithm | rest
    # Of reversing, resampling sees the tokens alone: lengths and places are equal in both runs.
    made = compiled_model("reverse", rotate=False)
    assert made.seen() == Circuit(["embed->L2.H0.v", "L2.H0->logits"], "split")


def test_a_pair_is_scored_where_the_program_says_another_thing(made):
    pair = made.pair(64, 5)
    program = made.program
    for row in range(0, 64, 16):
        words = [
            [program.vocabulary[int(i) - 1] for i in batch.inputs[row, 1:]] for batch in (pair.clean, pair.corrupted)
        ]
        differ = [a != b for a, b in zip(made.run(words[0]), made.run(words[1]), strict=True)]
        assert pair.clean.scored[row].tolist() == [False, *differ] and any(differ)
    assert torch.equal(pair.clean.wrong, pair.corrupted.targets)
    assert pair.fingerprint != made.pair(64, 6).fingerprint and pair.fingerprint == made.pair(64, 5).fingerprint


def test_bad_words():
    with pytest.raises(ConfigError, match=r"no compiled program 'revers'. Did you mean 'reverse'"):
        compiled_model("revers")
    made = compiled_model("induction")
    with pytest.raises(ConfigError, match="induction has no word 'z': its words are a, b, c, d"):
        made.run("abz")
    with pytest.raises(ConfigError, match="takes 1 to 6 words and no word three times"):
        made.run("aaa")
    with pytest.raises(ConfigError, match="takes 1 to 6 words"):
        made.run("abcdabc")
    with pytest.raises(ConfigError, match="no corruption 'token'"):
        made.pair(4, corruption="token")
    with pytest.raises(ConfigError, match="no ablation 'non'"):
        made.seen("non")
