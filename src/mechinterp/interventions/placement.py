"""Inputs where the model is, and models that an analysis can use."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from mechinterp.core import Batch, HookedModel, Pair, ShapeError, UnsupportedError
from mechinterp.interventions.standing import EditedTransformer
from mechinterp.models import Transformer

_Inputs = TypeVar("_Inputs", Batch, Pair, Tensor)


def placement(model: HookedModel | nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of a model's weights.

    Raises:
        UnsupportedError: If they are of half precision: the rounding of a sum is larger than many effects in it.
    """
    weight = next(model.parameters())
    if weight.dtype.itemsize < 4:
        raise UnsupportedError(
            f"the model's weights are {str(weight.dtype).removeprefix('torch.')}, too coarse for effects: analyse "
            "model.float(), which has the same weights"
        )
    return weight.device, weight.dtype


def on_model(inputs: _Inputs, model: HookedModel | nn.Module) -> _Inputs:
    """A pair, batch or tensor on the model's device, real values in the model's type."""
    device, dtype = placement(model)
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype if inputs.is_floating_point() else None)
    config = getattr(model, "config" if isinstance(model, Transformer) else "cfg", None)
    for batch in (inputs.clean, inputs.corrupted) if isinstance(inputs, Pair) else (inputs,):
        _check_fits(batch, getattr(config, "d_vocab", 0) or 0, getattr(config, "d_vocab_out", 0) or 0)
    if isinstance(inputs, Pair):
        _check_padded_alike(inputs, getattr(config, "pad_token", None))
    return inputs.to(device, dtype)


def _check_fits(batch: Batch, vocab: int, answers: int) -> None:
    """Refuse what torch would read as something else: a negative token as one from the end, a byte as a mask.

    Args:
        batch: The batch.
        vocab: Tokens that the model knows; 0 where it reads vectors.
        answers: Tokens that it answers with; 0 where it writes values, or the same as it reads.

    Raises:
        ShapeError: If there is no example, or a token or an answer is out of range.
    """
    if not len(batch):
        raise ShapeError("the batch is empty: draw at least one example")
    tokens = None if batch.inputs.is_floating_point() else batch.inputs
    parts = {"an input token": (tokens, vocab)}
    for name, part in (("a target", batch.targets), ("a wrong answer", batch.wrong)):
        parts[name] = (None if part is None or part.is_floating_point() else part[batch.scored], answers or vocab)
    for name, (values, known) in parts.items():
        if values is None or not values.numel():
            continue
        if values.dtype not in (torch.int64, torch.int32):
            raise ShapeError(f"{name} is of type {values.dtype}: use torch.int64")
        low, high = int(values.min()), int(values.max())
        if low < 0 or (known and high >= known):
            raise ShapeError(f"{name} is {low if low < 0 else high}: the model knows tokens 0 to {known - 1}")


def _check_padded_alike(pair: Pair, pad: int | None) -> None:
    """Refuse a pair in which attention masks differ: a mask is no source, so no patch could carry the difference.

    Raises:
        ShapeError: If clean and corrupted inputs are padded at different positions.
    """
    if pad is not None and not torch.equal(pair.clean.inputs == pad, pair.corrupted.inputs == pad):
        raise ShapeError(f"clean and corrupted inputs are padded (token {pad}) at different positions: pad them alike")


def as_transformer(model: object, purpose: str, instead: str = "") -> Transformer:
    """The model, if it is a `Transformer`: its configuration lists sources, readers and edges.

    Args:
        model: Any model.
        purpose: What needs it, with its verb: `path patching needs`.
        instead: What serves other models.

    Raises:
        UnsupportedError: If it is another kind of model, or one that is run under standing edits.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if isinstance(model, Transformer):
        if type(model).forward is not Transformer.forward:
            raise UnsupportedError(
                f"{purpose} the forward pass of Transformer, which they resume from the middle: "
                f"{type(model).__name__} has one of its own"
            )
        return model
    if isinstance(model, EditedTransformer):
        raise UnsupportedError(f"{purpose} the plain model: this one is run under interventions, take it without them")
    hint = f"; {instead}" if instead else ""
    raise UnsupportedError(f"{purpose} a Transformer: a {type(model).__name__} lists no edges{hint}")
