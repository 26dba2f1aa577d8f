"""A module of one's own by a table: nanoGPT's names, from the documentation's own example."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import mechinterp as mi
from mechinterp.core import ConfigError, ShapeError, UnsupportedError

PAGE = Path(__file__).parents[2] / "docs" / "other-models.md"


class Gain(nn.Module):
    """A layer norm without bias."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(width))
        self.bias = None

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.heads = heads

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(z.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2, self.attn, self.mlp = Gain(width), Gain(width), Attention(width, heads), Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """As nanoGPT names its weights; like it, the call returns the last position's logits and a loss."""

    def __init__(self, layers=2, heads=2, width=16, vocab=11, longest=8):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, width),
                "wpe": nn.Embedding(longest, width),
                "h": nn.ModuleList(Layer(width, heads) for _ in range(layers)),
                "ln_f": Gain(width),
            }
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def everywhere(self, tokens):
        at = torch.arange(tokens.shape[1])
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](at)
        for layer in self.transformer["h"]:
            x = layer(x)
        return self.lm_head(self.transformer["ln_f"](x))

    def forward(self, tokens):
        return self.everywhere(tokens)[:, -1:], None


def example():
    """The page's code up to the call, and the module."""
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "# nanoGPT" in block
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = {"nano_gpt": NanoGPT()}
    exec(code, names)
    return names


def test_the_documented_table_is_right():
    names = example()
    model, original = names["model"], names["nano_gpt"]
    tokens = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(tokens).log_softmax(-1), original.everywhere(tokens).log_softmax(-1)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    # In double precision, from a state dict and a function to compare with.
    original.double()
    double = mi.from_weights(
        original.state_dict(), names["config"], names["table"], logits=original.everywhere, allowed=1e-9
    )
    assert double.dtype == torch.float64


def test_a_wrong_table_is_refused():
    names = example()
    original, config, table = names["nano_gpt"], names["config"], names["table"]
    kinds = "blocks.{layer}.attn.W_Q W_K W_V"
    source, _ = table[kinds]
    other = {**table, kinds: (source, "(head kind d_head) d_model -> kind head d_model d_head")}
    with pytest.raises(UnsupportedError, match="differs from the original by up to"):
        mi.from_weights(original, config, other)
    without = {name: row for name, row in table.items() if name != "ln_final.w"}
    with pytest.raises(ShapeError, match=r"no place for the weights 'transformer.ln_f.weight'; .* 'ln_final.w'"):
        mi.from_weights(original, config, without)
    lost = {**table, "ln_final.w": "transformer.lnf.weight"}
    with pytest.raises(ShapeError, match=r"lack 'ln_final\.w'"):
        mi.from_weights(original, config, lost, ignore=["ln_f"])
    with pytest.raises(ShapeError, match="does not fit"):
        mi.from_weights(original, config.change(d_model=18, d_head=9), table)
    with pytest.raises(ConfigError, match="needs an axis `kind`"):
        mi.from_weights(original, config, {**table, kinds: (source, "(three d_head) d_model -> three d_model d_head")})
    with pytest.raises(UnsupportedError, match="give `logits`"):
        mi.from_weights(original, config, table, logits=lambda tokens: original.everywhere(tokens)[:, 0])


def test_an_unembedding_that_differs_from_the_embedding_is_not_tied():
    names = example()
    original = names["nano_gpt"]
    original.lm_head.weight = nn.Parameter(original.lm_head.weight.detach() * 2)
    with pytest.raises(ShapeError, match=r"no place for the weights 'lm_head.weight'"):
        mi.from_weights(original, names["config"], names["table"])
    table = {**names["table"], "unembed.W_U": ("lm_head.weight", "out into -> into out")}
    mi.from_weights(original, names["config"].change(tied_embeddings=False), table)
