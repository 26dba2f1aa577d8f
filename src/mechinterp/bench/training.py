"""What unused hook points cost a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from mechinterp.bench.minimal import Minimal
from mechinterp.bench.timing import Call, Figures, alternate, figures
from mechinterp.core import generator
from mechinterp.models import ModelConfig, Transformer

DEMO = ModelConfig(n_layers=2, n_heads=4, d_model=64, d_vocab=64, n_ctx=64, attn_bias=False)
SIZES = {
    "demo": (DEMO.change(positions="rotary", rotary_base=100.0), 32),
    "learned positions": (DEMO.change(attn_bias=True), 32),
    "4 layers with MLPs": (
        ModelConfig(n_layers=4, n_heads=4, d_model=128, d_mlp=512, d_vocab=64, n_ctx=64, act_fn="gelu"),
        32,
    ),
}
_MEANING = "our training step over that of a hand-written minimal PyTorch transformer; 1 is no cost, target <= 1.10"


def training(quick: bool = False) -> Figures:
    """Our training step with hooks unused over a minimal model's, same shape, data, loss and optimiser.

    Args:
        quick: One size and a few steps, to see that it runs.

    Returns:
        `ratio`, `low`, `high` of the demo's model; `sizes` has all of them. `same_loss` is the largest difference
        between both models' losses with equal weights: they compute one function.
    """
    sizes = {"demo": SIZES["demo"]} if quick else SIZES
    rows = [_one(name, config, batch, quick) for name, (config, batch) in sizes.items()]
    return figures("training", _MEANING, 1.10, rows, rows[0])


def _one(name: str, config: ModelConfig, batch: int, quick: bool) -> Figures:
    ours, floor = Transformer(config), Minimal(config)
    give_weights(floor, ours)
    draw = generator(0, "bench", "training")
    shape = (batch, config.n_ctx)
    inputs, targets = (torch.randint(config.features_in, shape, generator=draw) for _ in range(2))
    losses = [loss(model, inputs, targets).item() for model in (ours, floor)]
    blocks, calls = (3, 1) if quick else (40, 5) if config.n_layers == 2 else (30, 2)
    times = alternate(_step(ours, inputs, targets), _step(floor, inputs, targets), blocks, (calls, calls))
    return {
        "size": name,
        **times.ratio(),
        **times.seconds("our_seconds", "minimal_seconds"),
        "same_loss": abs(losses[0] - losses[1]),
        "shape": f"{config.n_layers} layers, {config.n_heads} heads, d_model {config.d_model}, d_mlp {config.d_mlp}, "
        f"batch {batch} x {config.n_ctx}",
    }


def loss(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Call:
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98), fused=True)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        loss(model, inputs, targets).backward()
        adam.step()

    return step


@torch.no_grad()
def give_weights(floor: Minimal, ours: Transformer) -> None:
    """Copy our weights into a minimal model of the same shape."""
    config = ours.config
    theirs = dict(floor.named_parameters())
    theirs["embed.weight"].copy_(ours.W_E)
    theirs["unembed.weight"].copy_(ours.W_U.T)
    if floor.pos is not None:
        floor.pos.weight.copy_(ours.W_pos)
    for layer, block in enumerate(ours.blocks):
        attn = block.attn
        fused = rearrange([attn.W_Q, attn.W_K, attn.W_V], "kind head d_model d_head -> (kind head d_head) d_model")
        theirs[f"blocks.{layer}.qkv.weight"].copy_(fused)
        theirs[f"blocks.{layer}.out.weight"].copy_(rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)"))
        if config.attn_bias:
            theirs[f"blocks.{layer}.qkv.bias"].copy_(torch.cat([attn.b_Q, attn.b_K, attn.b_V]).flatten())
            theirs[f"blocks.{layer}.out.bias"].copy_(attn.b_O)
        if config.d_mlp:
            theirs[f"blocks.{layer}.mlp.0.weight"].copy_(block.mlp.W_in.T)
            theirs[f"blocks.{layer}.mlp.2.weight"].copy_(block.mlp.W_out.T)
            for place, bias in ((0, block.mlp.b_in), (2, block.mlp.b_out)):
                if bias is not None:
                    theirs[f"blocks.{layer}.mlp.{place}.bias"].copy_(bias)
