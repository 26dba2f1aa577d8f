"""Weights of any module under our names: a table says where each comes from and how its axes lie."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from mechinterp.core import ConfigError, ShapeError
from mechinterp.models.config import ModelConfig
from mechinterp.models.convert.comparison import Forward, compare, evaluating, tolerance
from mechinterp.models.convert.refusal import few
from mechinterp.models.transformer import Transformer

Row = str | tuple[str, str] | float
"""Their name; or their name and a rearrangement of its axes (einops); or a number that fills the weight."""
_TURNED = ("W_Q", "W_K", "b_Q", "b_K", "q_norm.w", "k_norm.w")
_AXES = re.compile(r"[a-z_]+")


def from_weights(
    weights: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    table: Mapping[str, Row],
    *,
    logits: Forward | None = None,
    rotary_halves: bool = False,
    ignore: Sequence[str] = (),
    allowed: float | None = None,
) -> Transformer:
    """A `Transformer` with the weights of any module.

    A key of the table is one of our names, `{layer}` standing for every layer; several weights that lie in one of
    theirs are listed with a space: `"blocks.{layer}.attn.W_Q W_K W_V"`. Its value is their name, and where axes lie
    otherwise a rearrangement from theirs to ours in einops' notation. Axes have any names; only `kind` (which of the
    listed weights) and `d_head` have a meaning. A number in place of a name fills the weight: `0.0` for a bias that
    they do not have. Rows for weights that the configuration does not have are left out.

    Args:
        weights: The module, or its state dict. A module is compared with the result on a random batch.
        config: Its architecture.
        table: Our names -> where the weights come from.
        logits: From inputs to their logits, where the module's call returns anything else than logits, a tuple that
            begins with them, or a value with `.logits`. With a state dict: what to compare with.
        rotary_halves: Whether a rotary feature turns with the one half of the rotated features on, as in most models,
            and not with its neighbour. The features of queries and keys are then reordered, which changes no score.
        ignore: Their weights that take no part (masks, tables), as regular expressions.
        allowed: By how much log probabilities may differ; by default 1e-4 (1e-5 in float64).

    Returns:
        The same function in the weights' type, in evaluation mode.

    Raises:
        ShapeError: If weights are missing, left over or of another shape than the settings say, naming all of them.
        UnsupportedError: If the result computes something else than the module.
    """
    theirs = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    model = Transformer(config, seed=None)
    first = next((value for value in theirs.values() if value.is_floating_point()), torch.zeros(0))
    model = model.to(first.device, first.dtype)
    found = _renamed(theirs, model, table, ignore)
    if rotary_halves and config.positions == "rotary":
        found = {name: to_pairs(name, value, config.rotated) for name, value in found.items()}
    load(model, found)
    if isinstance(weights, nn.Module):
        with evaluating(weights):
            compare(model, logits or calling(weights), tolerance(model.dtype) if allowed is None else allowed)
    elif logits is not None:
        compare(model, logits, tolerance(model.dtype) if allowed is None else allowed)
    return model


def calling(module: nn.Module) -> Forward:
    """A module's logits, from what its call returns."""

    def forward(inputs: Tensor) -> Tensor:
        output = module(inputs)
        output = getattr(output, "logits", output)
        return output[0] if isinstance(output, tuple) else output

    return forward


def load(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a model, in evaluation mode from then on.

    Raises:
        ShapeError: If some are missing, left over or of another shape, naming all of them.
    """
    expected = model.state_dict()
    problems = [f"the weights lack '{name}', which the settings ask for" for name in expected if name not in weights]
    for name, value in weights.items():
        if name not in expected:
            problems.append(f"the settings leave no place for the weights '{name}' {list(value.shape)}")
        elif value.shape != expected[name].shape:
            settings = list(expected[name].shape)
            problems.append(f"'{name}' is {list(value.shape)}, and the settings say {settings}")
    if problems:
        raise ShapeError("; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else ""))
    model.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=True)
    model.eval()


def to_pairs(name: str, value: Tensor, rotated: int) -> Tensor:
    """Queries' and keys' features so reordered that those which rotate together stand side by side.

    Theirs turns feature i with feature i + rotated / 2 at frequency i; ours turns 2i with 2i + 1 at frequency i.
    """
    if not name.endswith(_TURNED):
        return value
    turned = rearrange(value[..., :rotated], "... (half pair) -> ... (pair half)", half=2)
    return torch.cat([turned, value[..., rotated:]], -1)


def _renamed(
    theirs: Mapping[str, Tensor], model: Transformer, table: Mapping[str, Row], ignore: Sequence[str]
) -> dict[str, Tensor]:
    """Our state dict; weights of theirs that are not used are an error."""
    config, expected = model.config, model.state_dict()
    ours: dict[str, Tensor] = {}
    used: set[str] = set()
    for key, row in table.items():
        for layer in range(config.n_layers) if "{layer}" in key else (0,):
            names = _names(key.replace("{layer}", str(layer)))
            wanted = [name for name in names if name in expected]
            if isinstance(row, int | float):
                ours |= {name: torch.full_like(expected[name], row) for name in wanted}
                continue
            source, pattern = (row, None) if isinstance(row, str) else row
            source = source.replace("{layer}", str(layer))
            if source not in theirs or not wanted:
                continue
            used.add(source)
            parts = _parts(theirs[source], source, pattern, len(names), config.d_head)
            ours |= {name: part for name, part in zip(names, parts, strict=True) if name in expected}
    if "pos_embed.W_pos" in ours:
        ours["pos_embed.W_pos"] = ours["pos_embed.W_pos"][: config.n_ctx]
    left = [name for name in theirs if name not in used and not any(re.search(each, name) for each in ignore)]
    left = [name for name in left if not _repeated(theirs[name], config, ours)]
    if left:
        missing = [name for name in expected if name not in ours]
        lacking = f"; still without weights: {few(missing)}" if missing else ""
        raise ShapeError(f"no place for the weights {few(left)}{lacking}: give them a row, or list them under `ignore`")
    return ours


def _names(key: str) -> list[str]:
    """`blocks.0.attn.W_Q W_K` -> both full names."""
    first, *others = key.split()
    lead = first.rpartition(".")[0]
    return [first, *(f"{lead}.{name}" for name in others)]


def _parts(value: Tensor, name: str, pattern: str | None, many: int, d_head: int) -> Sequence[Tensor]:
    if pattern is None:
        return [value]
    sizes = {"kind": many, "d_head": d_head}
    axes = _AXES.findall(pattern)
    if many > 1 and "kind" not in axes:
        raise ConfigError(f"'{pattern}' for '{name}' needs an axis `kind`: which of the {many} weights")
    try:
        moved = rearrange(value, pattern, **{axis: size for axis, size in sizes.items() if axis in axes})
    except Exception as error:  # einops has an error type of its own, below Exception
        raise ShapeError(f"'{name}' {list(value.shape)} does not fit '{pattern}'") from error
    return moved.unbind(0) if many > 1 else [moved]


def _repeated(value: Tensor, config: ModelConfig, ours: Mapping[str, Tensor]) -> bool:
    """Whether a weight says nothing new: a tied unembedding, or a bias of the unembedding that is zero."""
    embed = ours.get("embed.W_E")
    if config.tied_embeddings and embed is not None and value.shape == embed.shape:
        return torch.equal(value, embed)
    return value.shape == (config.features_out,) and not config.unembed_bias and not bool(value.any())
