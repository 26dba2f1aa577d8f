"""Shared set-up of the tests. It imports nothing of mechinterp itself: the shape checks must be in place first."""

import random

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

# The same examples on every machine, and no failure because a machine was busy.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

# Helpers of several rooms' tests, which these import by name.
collect_ignore = ["shared"]


def pytest_configure(config: pytest.Config) -> None:
    # One thread per process: two workers fill two cores, and sums come out the same with and without workers.
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed; tests never seed torch's global one."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def make_model():
    """A small random float64 `Transformer`; every weight is random, also biases and norms."""

    def make(seed: int = 0, **settings):
        from mechinterp.models import ModelConfig, Transformer

        small = {"n_layers": 3, "n_heads": 2, "d_model": 16, "d_vocab": 20, "n_ctx": 9}
        model = Transformer(ModelConfig(**{**small, **settings}), seed).double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                leaf = name.rsplit(".", 1)[-1]
                if leaf.startswith("b") or leaf in ("w", "smear"):
                    weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.5)
        return model

    return make


@pytest.fixture(scope="session")
def make_pair():
    """Random clean and corrupted tokens; scored positions, wrong answers and roles are random too.

    With `pad`, which is the last token, about a quarter of the positions hold it, the same ones in both.
    """

    def make(seed: int = 0, batch: int = 4, seq: int = 9, vocab: int = 20, one_scored: bool = False, pad=None):
        from mechinterp.core import Batch, Pair

        g = torch.Generator().manual_seed(seed)
        clean, corrupted, targets, wrong = (torch.randint(vocab, (batch, seq), generator=g) for _ in range(4))
        if pad is not None:
            padded = torch.rand(batch, seq, generator=g) < 0.25
            padded[:, seq // 2] = False  # no example is all padding
            clean, corrupted = ((part % (vocab - 1)).masked_fill(padded, pad) for part in (clean, corrupted))
        if one_scored:
            scored = torch.zeros(batch, seq, dtype=torch.bool)
            scored[torch.arange(batch), torch.randint(3, seq, (batch,), generator=g)] = True
        else:
            scored = torch.rand(batch, seq, generator=g) < 0.3
            scored[:, -2] = True
        roles = {
            "here": torch.randint(seq, (batch,), generator=g),
            "maybe": torch.randint(-1, seq, (batch,), generator=g),
        }
        made = (Batch(inputs, targets, scored, wrong, roles) for inputs in (clean, corrupted))
        return Pair(*made)

    return make


@pytest.fixture(scope="session")
def architectures():
    """A strategy: settings of `make_model`, of every kind of model, drawn together.

    Each setting is drawn from a generator of its own seed: Hypothesis's own draws stay near the first one, and leave
    most combinations out.
    """
    heads = [{"n_heads": 2}, {"n_heads": 2, "n_kv_heads": 1}, {"n_heads": 4, "n_kv_heads": 2, "d_head": 6}]
    positions = [
        {"positions": "learned"},
        {"positions": "shortformer"},
        {"positions": "none"},
        {"positions": "rotary"},
        {"positions": "rotary", "rotary_dim": 2, "rotary_scaling": "linear", "rotary_factor": 4.0},
        {"positions": "rotary", "rotary_scaling": "llama3", "rotary_factor": 8.0, "rotary_ctx": 40, "rotary_base": 50},
    ]
    words = {
        "n_layers": [1, 2, 3],
        "d_mlp": [0, 5, 5],
        "normalization": ["LN", "RMS", "none"],
        "attention": ["softmax", "softmax", "linear", "relu", "uniform"],
        "act_fn": ["relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"],
        "pad_token": [None, None, 19],
    }
    switches = ["causal", "attn_bias", "attn_out_bias", "mlp_bias", "gated_mlp", "parallel_blocks", "qk_norm"]
    words |= {name: [True, False] for name in [*switches, "smeared_keys", "unembed_bias", "tied_embeddings"]}

    def draw(seed):
        rng = random.Random(seed)
        return {**rng.choice(heads), **rng.choice(positions), **{name: rng.choice(words[name]) for name in words}}

    return st.integers(0, 2**32).map(draw)


@pytest.fixture(scope="session")
def rule_judge():
    """`rule_judge(graph, rule, examples, combine)`: a judge that runs no model, and counts calls and runs.

    A circuit's score on an example is `combine(rule(edges), example)`.
    """
    import numpy as np
    import torch

    from mechinterp.core import Batch, Pair
    from mechinterp.interventions import Judge

    def _different(count):
        tokens = torch.arange(count)[:, None]
        batch = Batch(tokens, tokens, torch.ones(count, 1, dtype=torch.bool))
        return Pair(batch, batch)

    class RuleJudge(Judge):
        def __init__(self, graph, rule, examples=(-0.5, 0.5), combine=lambda worth, example: worth + example):
            examples = np.asarray(examples, dtype=float)
            parts = {"graph": graph, "rule": rule, "examples": examples, "combine": combine, "calls": 0, "runs": 0}
            self.__dict__.update(parts, pair=_different(len(examples)))

        def scores(self, circuits):
            self.__dict__.update(calls=self.calls + 1, runs=self.runs + len(circuits))
            values = [self.combine(self.rule(circuit.edges), self.examples) for circuit in circuits]
            return np.array(values).reshape(len(circuits), len(self.examples))

        def part(self, index):
            return RuleJudge(self.graph, self.rule, self.examples[index], self.combine)

    return RuleJudge
