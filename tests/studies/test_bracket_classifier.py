"""A bracket classifier from elsewhere: plain PyTorch with a HookedTransformer's names, trained, converted, explained.

It reads the whole string (no causal mask), hides padding keys behind scores of -1e5, has an output of two classes, and
answers at position 0.
"""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import mechinterp as mi
from mechinterp.core import Batch, Pair, ShapeError, generator
from mechinterp.tasks import Task

START, PAD, END, OPEN, CLOSE = range(5)
SEQ, LAYERS, HEADS, WIDTH, D_HEAD, D_MLP = 12, 2, 2, 24, 12, 32
SETTINGS = {
    "n_layers": LAYERS, "n_heads": HEADS, "d_model": WIDTH, "d_head": D_HEAD, "d_mlp": D_MLP, "n_ctx": SEQ,
    "d_vocab": 5, "d_vocab_out": 2, "act_fn": "relu", "attn_only": False, "normalization_type": "LN", "eps": 1e-5,
    "attention_dir": "bidirectional", "positional_embedding_type": "standard", "use_attn_scale": True,
    "attn_scale": math.sqrt(D_HEAD), "gated_mlp": False, "seed": 1, "model_name": "bracket_classifier",
}  # fmt: skip


class Weights(nn.Module):
    """Named weights of given shapes; biases start near 0, gains at 1."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            start = (
                torch.ones(shape) if name == "w" else torch.randn(shape) / math.sqrt(shape[-2 if len(shape) > 1 else 0])
            )
            self.register_parameter(name, nn.Parameter(start * (0.1 if name.startswith("b") else 1.0)))

    def norm(self, x):
        return functional.layer_norm(x, self.w.shape, self.w, self.b)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        heads = {f"W_{name}": (HEADS, WIDTH, D_HEAD) for name in "QKV"} | {
            f"b_{name}": (HEADS, D_HEAD) for name in "QKV"
        }
        self.ln1, self.ln2 = (Weights(w=(WIDTH,), b=(WIDTH,)) for _ in range(2))
        self.attn = Weights(**heads, W_O=(HEADS, D_HEAD, WIDTH), b_O=(WIDTH,))
        self.mlp = Weights(W_in=(WIDTH, D_MLP), b_in=(D_MLP,), W_out=(D_MLP, WIDTH), b_out=(WIDTH,))

    def forward(self, x, padded):
        attn, read = self.attn, self.ln1.norm(x)
        q, k, v = (
            torch.einsum("bsm,hmd->bhsd", read, getattr(attn, f"W_{name}")) + getattr(attn, f"b_{name}")[:, None]
            for name in "QKV"
        )
        scores = (q @ k.mT / math.sqrt(D_HEAD)).masked_fill(padded[:, None, None], -1e5)
        x = x + torch.einsum("bhsd,hdm->bsm", scores.softmax(-1) @ v, attn.W_O) + attn.b_O
        hidden = torch.relu(self.ln2.norm(x) @ self.mlp.W_in + self.mlp.b_in)
        return x + hidden @ self.mlp.W_out + self.mlp.b_out


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.pos_embed = Weights(W_E=(5, WIDTH)), Weights(W_pos=(SEQ, WIDTH))
        self.blocks = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.ln_final, self.unembed = Weights(w=(WIDTH,), b=(WIDTH,)), Weights(W_U=(WIDTH, 2), b_U=(2,))

    def forward(self, tokens):
        x = self.embed.W_E[tokens] + self.pos_embed.W_pos
        for layer in self.blocks:
            x = layer(x, tokens == PAD)
        return (self.ln_final.norm(x) @ self.unembed.W_U + self.unembed.b_U)[:, 0]


def balanced_string(rng, half):
    depth, left, text = 0, 2 * half, []
    for _ in range(2 * half):
        opens = depth == 0 or (left > depth and rng.random() < 0.5)
        text.append(OPEN if opens else CLOSE)
        depth, left = depth + (1 if opens else -1), left - 1
    return text


class Brackets(Task):
    """Is a string of brackets balanced? The answer stands at position 0; a twin has one bracket turned round."""

    name = "brackets-of-the-test"
    corruptions = ("turned",)

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        pair = self._twins(batch, seed)
        keep = torch.arange(batch) % 2 == 0
        labels = torch.where(keep, 1, 0)
        return self._made(torch.where(keep[:, None], pair[0], pair[1]), labels)

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = "turned") -> Pair:
        balanced, broken = self._twins(batch, seed)
        labels = torch.arange(batch) % 2
        clean = torch.where(labels[:, None] == 1, balanced, broken)
        corrupted = torch.where(labels[:, None] == 1, broken, balanced)
        return Pair(self._made(clean, labels), self._made(corrupted, labels))

    def _made(self, tokens, labels) -> Batch:
        scored = torch.zeros(tokens.shape, dtype=torch.bool)
        scored[:, 0] = True
        targets = torch.where(scored, labels[:, None], -1)
        wrong = torch.where(scored, 1 - labels[:, None], -1)
        roles = {"start": torch.zeros(len(tokens), dtype=torch.long), "end": (tokens == END).int().argmax(1)}
        return Batch(tokens, targets, scored, wrong, roles)

    def _twins(self, count, seed):
        rng = np.random.default_rng(generator(seed, self.name).initial_seed())
        balanced, broken = torch.full((2, count, SEQ), PAD)
        for row in range(count):
            text = balanced_string(rng, int(rng.integers(1, 6)))
            twin, at = list(text), int(rng.integers(len(text)))
            twin[at] = OPEN + CLOSE - twin[at]
            for out, string in ((balanced, text), (broken, twin)):
                out[row, : len(string) + 2] = torch.tensor([START, *string, END])
        return balanced, broken


@pytest.fixture(scope="module")
def trained():
    """State dicts of the classifier at some steps."""
    task = Brackets()
    data = task.batch(4096, seed=100)
    labels = data.targets[:, 0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    states, draw = {}, generator(0, "brackets")
    for step in range(401):
        if step in (0, 50, 100, 200, 400):
            states[step] = {name: value.clone() for name, value in model.state_dict().items()}
        rows = torch.randint(len(data), (128,), generator=draw)
        loss = functional.cross_entropy(model(data.inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.load_state_dict(states[400])
    return model.eval(), states


def test_it_converts_and_knows_brackets(trained):
    original, states = trained
    model = mi.from_transformer_lens(states[400], SETTINGS, pad_token=PAD)
    assert set(states[400]) == set(model.state_dict())  # the names are TransformerLens's
    assert not model.config.causal and model.config.features_out == 2
    held = Brackets().batch(500, seed=7)
    with torch.no_grad():
        theirs, ours = original(held.inputs), model(held.inputs)[:, 0]
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), rtol=0, atol=1e-4)
    right = (ours.argmax(-1) == held.targets[:, 0]).float().mean()
    assert right > 0.9 and (held.inputs == PAD).any()
    # Without the mask it is another function.
    blind = mi.from_transformer_lens(states[400], SETTINGS)
    assert (blind(held.inputs)[:, 0] - theirs).abs().max() > 0.1


def test_pairs_that_are_padded_differently_are_refused(trained):
    model = mi.from_transformer_lens(trained[1][400], SETTINGS, pad_token=PAD)
    pair = Brackets().pair(4, seed=1)
    longer = Pair(pair.clean, Brackets().pair(4, seed=2).clean)
    with pytest.raises(ShapeError, match=re.escape("padded (token 1) at different positions")):
        mi.patch_edges(model, longer)


def test_its_circuit_is_found_and_reported(trained, tmp_path):
    _, states = trained
    task = Brackets()
    model = mi.from_transformer_lens(states[0], SETTINGS, pad_token=PAD)
    with mi.Recorder(tmp_path / "run", model=model, task=task, checkpoints=list(states)) as rec:
        for step, state in states.items():
            model.load_state_dict(mi.from_transformer_lens(state, SETTINGS, pad_token=PAD).state_dict())
            rec(step)
    run = mi.Run(tmp_path / "run")
    pair, held = (task.pair(64, seed=seed) for seed in (1, 2))
    circuit = mi.discover(run.model(), pair, share=0.8)
    score = mi.evaluate(run.model(), held, circuit, nulls=20, untrained=5)
    assert 0 < len(circuit) < len(model.config.graph().edges)
    assert float(score["faithfulness"]) > 0.6
    story = mi.study(run, examples=16, nulls=20, untrained=5)
    assert len(story.circuit) > 0 and "patch_nodes" not in story.verdict
    page = mi.report(run).read_text(encoding="utf-8")
    assert "L0.H" in page and "brackets-of-the-test" in page
