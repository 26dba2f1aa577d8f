"""Effects in converted models against torch hooks on the *original* modules: one pass for each patch, none of our code.

`Original` knows where a Hugging Face model keeps its parts. A reader sees a changed stream if what it computes from its
norm's input is computed once more from the changed input; everything after it runs in the model itself.
"""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mechinterp.core import Batch, Pair
from mechinterp.models import from_hf
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes

V, SEQ = 30, 7
SHAPES = {
    "narrow": {"layers": 1, "heads": 2, "shared": 1, "width": 12, "mlp": 20},
    "deep": {"layers": 3, "heads": 2, "shared": 2, "width": 16, "mlp": 24},
    "wide": {"layers": 2, "heads": 4, "shared": 2, "width": 32, "mlp": 16},
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip


def sizes(shape):
    return {
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"], "hidden_size": shape["width"],
        "intermediate_size": shape["mlp"], "vocab_size": V, "max_position_embeddings": 12, "bos_token_id": 0,
        "eos_token_id": 0,
    }  # fmt: skip


def llama_like(cls, config, **settings):
    def build(shape):
        shared = {"num_key_value_heads": shape["heads"] // shape["shared"], "pad_token_id": 0}
        return cls(config(**sizes(shape), **shared, **settings))

    return build


def neox(parallel):
    def build(shape):
        rotary = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
        plain = {name: value for name, value in sizes(shape).items() if name != "num_heads"}
        width = shape["heads"] * 8
        settings = {**plain, "hidden_size": width, "use_parallel_residual": parallel, "rope_parameters": rotary}
        return GPTNeoXForCausalLM(GPTNeoXConfig(**settings))

    return build


def gpt2(shape):
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=shape["layers"], n_head=shape["heads"], n_embd=shape["width"], n_inner=shape["mlp"], vocab_size=V,
            n_positions=12, bos_token_id=0,
        )
    )  # fmt: skip


FAMILIES = {
    "gpt2": gpt2,
    "neox": neox(True),
    "neox, one after the other": neox(False),
    "llama": llama_like(LlamaForCausalLM, LlamaConfig, rope_parameters=LLAMA3),
    "mistral": llama_like(MistralForCausalLM, MistralConfig, sliding_window=12),
    "qwen2": llama_like(Qwen2ForCausalLM, Qwen2Config),
    "qwen3": llama_like(Qwen3ForCausalLM, Qwen3Config, head_dim=6),
}


class Original:
    """A Hugging Face model's parts by place."""

    def __init__(self, model):
        self.model, self.family = model, type(model).__name__
        config = model.config
        self.n_layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", self.heads)
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.parallel = getattr(config, "use_parallel_residual", False)
        body = {"GPT2LMHeadModel": "transformer", "GPTNeoXForCausalLM": "gpt_neox"}.get(self.family, "model")
        body = getattr(model, body)
        self.layers = body.h if hasattr(body, "h") else body.layers
        self.final = next(getattr(body, name) for name in ("ln_f", "final_layer_norm", "norm") if hasattr(body, name))
        self.inputs = body.drop if self.family == "GPT2LMHeadModel" else None

    def norm(self, layer, kind):
        block = self.layers[layer]
        names = ("ln_2", "post_attention_layernorm") if kind == "mlp" else ("ln_1", "input_layernorm")
        return next(getattr(block, name) for name in names if hasattr(block, name))

    def out(self, layer):
        block = self.layers[layer]
        attn = next(getattr(block, name) for name in ("attn", "attention", "self_attn") if hasattr(block, name))
        return next(getattr(attn, name) for name in ("c_proj", "dense", "o_proj") if hasattr(attn, name))

    def mlp(self, layer):
        return self.layers[layer].mlp

    def fork(self, layer, kind, place):
        """The map that makes a query, key or value, and the columns of it that are this one."""
        block, size, which = self.layers[layer], self.d_head, "qkv".index(kind)
        if self.family == "GPT2LMHeadModel":
            return block.attn.c_attn, slice(
                (which * self.heads + place) * size, (which * self.heads + place + 1) * size
            )
        if self.family == "GPTNeoXForCausalLM":
            return block.attention.query_key_value, slice((place * 3 + which) * size, (place * 3 + which + 1) * size)
        return getattr(block.self_attn, f"{kind}_proj"), slice(place * size, (place + 1) * size)

    def written(self, layer, z):
        """What each head's `z` adds to the stream."""
        weight = self.out(layer).weight
        weight = weight if self.family == "GPT2LMHeadModel" else weight.T
        parts = zip(z.split(self.d_head, -1), weight.split(self.d_head, 0), strict=True)
        return [part @ each for part, each in parts]


@contextmanager
def hooks(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def before(module, function):
    """Run a function on a module's input; what it returns, if anything, replaces the input."""
    return module.register_forward_pre_hook(lambda _, args: None if (new := function(args[0])) is None else (new,))


def after(module, function):
    """Likewise on its output."""

    def hook(_, args, output):
        first = output[0] if isinstance(output, tuple) else output
        new = function(first)
        if new is None or not isinstance(output, tuple):
            return new
        return (new, *output[1:])

    return module.register_forward_hook(hook)


def run(original, tokens):
    return original.model(input_ids=tokens, use_cache=False).logits


def watched(original, tokens):
    """The sources' values, and everything that nodes are made of, in one run."""
    kept = {}
    handles = [before(original.layers[0], partial(kept.__setitem__, "input"))]
    for layer in range(original.n_layers):
        handles.append(before(original.layers[layer], partial(kept.__setitem__, ("resid_pre", layer))))
        handles.append(before(original.out(layer), partial(kept.__setitem__, ("z", layer))))
        handles.append(after(original.mlp(layer), partial(kept.__setitem__, ("mlp", layer))))
        for kind in "qkv":
            module, _ = original.fork(layer, kind, 0)
            handles.append(after(module, partial(kept.__setitem__, (kind, layer))))
    with hooks(*handles), torch.no_grad():
        kept["logits"] = run(original, tokens)
    return kept


def sources(original, kept):
    """Source -> what it writes, but for constants."""
    values = {"input": kept["input"]}
    for layer in range(original.n_layers):
        for head, value in enumerate(original.written(layer, kept["z", layer])):
            values[f"L{layer}.H{head}"] = value
        values[f"L{layer}.mlp"] = kept["mlp", layer]
    return values


def readers(original):
    """Reader -> (layer, kind, place), in any order."""
    found = {"logits": (original.n_layers, "logits", 0)}
    group = original.heads // original.kv_heads
    for layer in range(original.n_layers):
        found[f"L{layer}.mlp"] = (layer, "mlp", 0)
        for head in range(original.heads):
            found[f"L{layer}.H{head}.q"] = (layer, "q", head)
        for place in range(original.kv_heads):
            name = f"H{place}" if group == 1 else f"H{place * group}-{place * group + group - 1}"
            found |= {f"L{layer}.{name}.{kind}": (layer, kind, place) for kind in "kv"}
    return found


def seen(original, source, reader):
    """Whether a reader comes after a source."""
    layer, kind, _ = reader
    if source == "input":
        return True
    own = int(source[1 : source.index(".")])
    inside = kind == "mlp" and not original.parallel and not source.endswith("mlp")
    return own < layer or (own == layer and inside)


@contextmanager
def moved(original, reader, step):
    """One reader's input moves by a step; what it computes is computed from that."""
    layer, kind, place = reader
    if kind == "logits":
        with hooks(before(original.final, lambda x: x + step)):
            yield
        return
    norm, kept = original.norm(layer, kind), {}
    if kind == "mlp":
        module, columns = original.mlp(layer), slice(None)
    else:
        module, columns = original.fork(layer, kind, place)

    def replaced(output):
        if kept.pop("again", False):
            return None  # our own call of the module, below
        kept["again"] = True
        fresh = module(norm(kept["x"] + step))
        output = output.clone()
        output[..., columns] = fresh[..., columns]
        return output

    def remember(x):
        if not kept.get("again"):
            kept["x"] = x

    with hooks(before(norm, remember), after(module, replaced)):
        yield


def loud(model):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(0.2 * torch.randn(weight.shape))
                else:
                    weight.copy_(torch.randn(weight.shape) * 0.8 / weight.shape[-1] ** 0.5)
    return model.eval()


def make(family, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = loud(FAMILIES[family](SHAPES[shape]))
    draw = torch.Generator().manual_seed(2)
    clean, corrupted, right = (torch.randint(V, (3, SEQ), generator=draw) for _ in range(3))
    scored = torch.zeros(3, SEQ, dtype=torch.bool)
    scored[torch.arange(3), torch.tensor([SEQ - 1, 3, SEQ - 1])] = True
    pair = Pair(*(Batch(tokens, right, scored, (right + 1) % V) for tokens in (clean, corrupted)))
    return Original(model), from_hf(model), pair


def logit_diff(logits, pair):
    right, wrong = (logits.gather(-1, part[..., None])[..., 0] for part in (pair.clean.targets, pair.clean.wrong))
    return (right - wrong)[pair.clean.scored]


CASES = [(family, shape) for family in FAMILIES for shape in SHAPES]


@pytest.mark.parametrize(("family", "shape"), CASES)
@torch.no_grad()
def test_edge_effects_are_those_of_the_original(family, shape):
    original, model, pair = make(family, shape)
    mine, theirs = (watched(original, batch.inputs) for batch in (pair.clean, pair.corrupted))
    steps = {name: value - sources(original, mine)[name] for name, value in sources(original, theirs).items()}
    exact = patch_edges(model, pair, direction="noise", metric="logit_diff")["effect"]
    clean = logit_diff(mine["logits"], pair)
    checked = 0
    for name, reader in readers(original).items():
        for source, step in steps.items():
            if not seen(original, source, reader):
                assert f"{source}->{name}" not in exact["edge"].values
                continue
            with moved(original, reader, step):
                effect = clean - logit_diff(run(original, pair.clean.inputs), pair)
            np.testing.assert_allclose(exact.sel(edge=f"{source}->{name}").values, effect.numpy(), rtol=0, atol=1e-4)
            checked += 1
    assert checked == exact.sizes["edge"] and np.abs(exact.values).max() > 0.05


@pytest.mark.parametrize(("family", "shape"), CASES)
@torch.no_grad()
def test_node_effects_are_those_of_the_original(family, shape):
    original, model, pair = make(family, shape)
    theirs = watched(original, pair.clean.inputs)  # denoise: clean values into the corrupted run
    corrupted = logit_diff(run(original, pair.corrupted.inputs), pair)
    size, group = original.d_head, original.heads // original.kv_heads

    def effect(handle):
        with hooks(handle):
            return logit_diff(run(original, pair.corrupted.inputs), pair) - corrupted

    def put(value, pos, columns):
        def edit(old):
            new = old.clone()
            new[:, pos, columns] = value[:, pos, columns]
            return new

        return edit

    biggest = 0.0
    for kind in ("z", "q", "k", "v", "mlp", "resid_pre"):
        exact = patch_nodes(model, pair, site=kind, at="pos", metric="logit_diff")["effect"]
        for layer in range(original.n_layers):
            for pos in (0, 3, SEQ - 1):
                here = exact.sel(layer=layer, pos=pos)
                if kind in ("mlp", "resid_pre"):
                    place = (after, original.mlp(layer)) if kind == "mlp" else (before, original.layers[layer])
                    expected = effect(place[0](place[1], put(theirs[kind, layer], pos, slice(None))))
                    np.testing.assert_allclose(here.values, expected.numpy(), rtol=0, atol=1e-4)
                    continue
                for place in range(original.heads if kind in "zq" else original.kv_heads):
                    if kind == "z":
                        columns = slice(place * size, (place + 1) * size)
                        handle = before(original.out(layer), put(theirs[kind, layer], pos, columns))
                    else:
                        module, columns = original.fork(layer, kind, place)
                        handle = after(module, put(theirs[kind, layer], pos, columns))
                    head = place * (group if kind in "kv" else 1)
                    np.testing.assert_allclose(here.sel(head=head).values, effect(handle).numpy(), rtol=0, atol=1e-4)
        biggest = max(biggest, float(exact.max()))
    assert biggest > 0.05


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_estimates_are_gradients_of_the_original(family, shape):
    """EAP, and attribution of `z`: differences times the gradients that torch's hooks see in the original."""
    original, model, pair = make(family, shape)
    mine, theirs = (watched(original, batch.inputs) for batch in (pair.clean, pair.corrupted))
    steps = {
        name: sources(original, mine)[name].detach() - value.detach()
        for name, value in sources(original, theirs).items()
    }
    guess = estimate_edges(model, pair, method="eap", metric="logit_diff")["effect"]
    for name, reader in readers(original).items():
        shift = torch.zeros(3, SEQ, original.model.config.hidden_size, requires_grad=True)
        with moved(original, reader, shift):
            score = logit_diff(run(original, pair.clean.inputs), pair).sum()
        (gradient,) = torch.autograd.grad(score, [shift])
        for source, step in steps.items():
            if seen(original, source, reader):
                expected = (step * gradient).sum((1, 2))
                actual = guess.sel(edge=f"{source}->{name}").values
                np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-4)
    nodes = estimate_nodes(model, pair, site="z", at="all", metric="logit_diff", direction="noise")["effect"]
    for layer in range(original.n_layers):
        kept = {}
        module = original.out(layer)
        handle = module.register_full_backward_hook(lambda _, into, out, kept=kept: kept.update(z=into[0]))
        with hooks(handle):
            logit_diff(run(original, pair.clean.inputs), pair).sum().backward()
        original.model.zero_grad()
        product = (mine["z", layer] - theirs["z", layer]).detach() * kept["z"]
        expected = product.unflatten(-1, (original.heads, -1)).sum((1, 3)).T
        np.testing.assert_allclose(nodes.sel(layer=layer).values, expected.numpy(), rtol=0, atol=1e-4)
    assert np.abs(guess.values).max() > 0.05
