"""Parts of a model's weights by address: which entries of which parameters belong to a head, a layer or an end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mechinterp.core import ConfigError, suggest
from mechinterp.models import ModelConfig, Transformer
from mechinterp.training.interventions.apply import heads_by_layer

_ENDS = {
    "embed": "embed.",
    "pos": "pos_embed.",
    "unembed": "unembed.",
    "readout": "readout.",
    "ln_final": "ln_final.",
}
_IN_LAYER = {"attn": "attn.", "mlp": "mlp.", "ln1": "ln1.", "ln2": "ln2."}
_OF_HEAD = {"q": ("W_Q", "b_Q"), "k": ("W_K", "b_K"), "v": ("W_V", "b_V"), "o": ("W_O",)}
_ADDRESS = re.compile(r"L(?P<layer>[0-9]{1,9})(?:\.H(?P<head>[0-9]{1,9})(?:-(?P<last>[0-9]{1,9}))?)?(?:\.(?P<of>\w+))?")
PART_ADDRESSES = ("all", *_ENDS, "L0", "L0.attn", "L0.mlp", "L0.ln1", "L0.ln2", "L0.q", "L0.H1", "L0.H1.k")
"""What addresses look like."""


@dataclass(frozen=True)
class Piece:
    """Some entries of one parameter.

    Args:
        name: Of the parameter.
        rows: Which entries of its first axis; None for all.
    """

    name: str
    rows: tuple[int, ...] | None = None

    def read(self, values: Mapping[str, Tensor]) -> Tensor:
        """A copy of the entries, from parameters by name."""
        value = values[self.name].detach()
        return value.clone() if self.rows is None else value[list(self.rows)]

    def write(self, values: Mapping[str, Tensor], entries: Tensor | float) -> None:
        """Put entries in place."""
        with torch.no_grad():
            value = values[self.name]
            if self.rows is None:
                value.copy_(entries) if isinstance(entries, Tensor) else value.fill_(entries)
            else:
                value[list(self.rows)] = entries


def pieces(part: str, heads: Sequence[str] | None, model: Transformer) -> list[Piece]:
    """What belongs to a part of a model.

    Args:
        part: An address; with `heads` only `head`, `q`, `k`, `v` or `o`.
        heads: Of these heads; None where the address says it all.
        model: The model.

    Raises:
        ConfigError: If the model has no such part.
    """
    names = [name for name, _ in model.named_parameters()]
    if heads is not None:
        if part not in ("head", *_OF_HEAD):
            raise ConfigError(f"no part '{part}' of a head.{suggest(part, ['head', *_OF_HEAD])}")
        named = heads_by_layer(heads, model).items()
        chosen = [piece for layer, some in named for piece in _of_heads(layer, some, part, model.config)]
    elif part == "all":
        chosen = [Piece(name) for name in names]
    elif part in _ENDS:
        chosen = [Piece(name) for name in names if name.startswith(_ENDS[part])]
    else:
        chosen = _in_layer(part, names, model.config)
    chosen = [piece for piece in chosen if piece.name in names]
    if not chosen:
        raise ConfigError(f"this model has no weights in '{part}'")
    return chosen


def _in_layer(part: str, names: Sequence[str], config: ModelConfig) -> list[Piece]:
    match = _ADDRESS.fullmatch(part)
    if match is None:
        raise ConfigError(f"no part '{part}' of a model.{suggest(part, PART_ADDRESSES)}")
    layer, of = int(match["layer"]), match["of"]
    if layer >= config.n_layers:
        raise ConfigError(f"no part '{part}': the model has layers 0-{config.n_layers - 1}")
    if match["head"] is not None:
        first, last = int(match["head"]), int(match["last"] or match["head"])
        if last >= config.n_heads or last < first:
            raise ConfigError(f"no part '{part}': the model has heads 0-{config.n_heads - 1}")
        if of is not None and of not in _OF_HEAD:
            raise ConfigError(f"no part '{part}': of a head there are {', '.join(_OF_HEAD)}")
        return _of_heads(layer, range(first, last + 1), of or "head", config)
    if of in _OF_HEAD:
        return [Piece(f"blocks.{layer}.attn.{name}") for name in _OF_HEAD[of]]
    if of is not None and of not in _IN_LAYER:
        raise ConfigError(f"no part '{part}': of a layer there are {', '.join([*_IN_LAYER, *_OF_HEAD])}")
    start = f"blocks.{layer}." + (_IN_LAYER[of] if of else "")
    return [Piece(name) for name in names if name.startswith(start)]


def _of_heads(layer: int, heads: Sequence[int], of: str, config: ModelConfig) -> list[Piece]:
    chosen = []
    for kind in _OF_HEAD if of == "head" else (of,):
        shared = config.shared if kind in ("k", "v") else 1
        rows = sorted({head // shared for head in heads})
        if len(rows) * shared != len(set(heads)):
            raise ConfigError(f"{shared} heads share one '{kind}' in this model: name all of them, as in 'L0.H0-1'")
        chosen += [Piece(f"blocks.{layer}.attn.{name}", tuple(rows)) for name in _OF_HEAD[kind]]
    return chosen


def clear_averages(chosen: Sequence[Piece], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set an optimiser's averages of these entries to zero."""
    parameters = dict(model.named_parameters())
    for piece in chosen:
        state = optimizer.state.get(parameters[piece.name], {})
        for average in ("exp_avg", "exp_avg_sq"):
            if average in state:
                piece.write({piece.name: state[average]}, 0.0)
