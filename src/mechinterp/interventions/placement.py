"""Inputs where the model is, and models that an analysis can use."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from mechinterp.core import Batch, HookedModel, Pair, UnsupportedError
from mechinterp.models import Transformer

_Inputs = TypeVar("_Inputs", Batch, Pair, Tensor)


def placement(model: HookedModel | nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of a model's weights."""
    weight = next(model.parameters())
    return weight.device, weight.dtype


def on_model(inputs: _Inputs, model: HookedModel | nn.Module) -> _Inputs:
    """A pair, batch or tensor on the model's device, real values in the model's type."""
    device, dtype = placement(model)
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype if inputs.is_floating_point() else None)
    return inputs.to(device, dtype)


def as_transformer(model: object, purpose: str, instead: str = "") -> Transformer:
    """The model, if it is a `Transformer`: its configuration lists sources, readers and edges.

    Args:
        model: Any model.
        purpose: What needs it, with its verb: `path patching needs`.
        instead: What serves other models.

    Raises:
        UnsupportedError: If it is another kind of model.
    """
    if isinstance(model, Transformer):
        return model
    hint = f"; {instead}" if instead else ""
    raise UnsupportedError(f"{purpose} a Transformer: a {type(model).__name__} lists no edges{hint}")
