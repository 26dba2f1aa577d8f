"""Attention patterns and sets of keys that interventions name, from the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechinterp.attribution.head_scores import earlier_copies, keys_at, successors_of_copies, uniform_pattern
from mechinterp.core import ShapeError

_Keys = Bool[Tensor, "#batch seq seq"]


def keys_named(name: str, inputs: Tensor) -> _Keys:
    """`[b, q, j]`: whether key j is one of those that `name` names for query q.

    Args:
        name: `previous-token`, `itself`, `induction` (followed an earlier copy of the query's token) or `copies`
            (earlier copies of it).
        inputs: Tokens `[batch, seq]`, or vectors, which have no copies.

    Raises:
        ShapeError: If copies are asked for and the inputs are vectors.
    """
    seq = inputs.shape[1]
    if name in _COPIES:
        if inputs.is_floating_point():
            raise ShapeError(f"'{name}' names keys by equal tokens, and this model reads vectors")
        return _COPIES[name](inputs)
    return (
        torch.ones(seq, seq, dtype=torch.bool, device=inputs.device).tril(_DIAGONAL[name]).triu(_DIAGONAL[name])[None]
    )


def pattern_named(
    name: str, inputs: Tensor, causal: bool, offsets: Sequence[int] = ()
) -> tuple[Float[Tensor, "#batch seq seq"], _Rows]:
    """An ideal pattern, and the rows for which it is defined, bool `[batch, seq, 1]`.

    Args:
        name: `previous-token` (the first position attends to itself), `uniform`, `induction` (rows with an earlier
            copy of their token), or `offsets` (rows with a position so far back).
        inputs: As for `keys_named`.
        causal: Whether a position sees only itself and earlier ones.
        offsets: With `offsets`: how far back keys lie.
    """
    if name == "uniform":
        weights = uniform_pattern(inputs.shape[1], causal).to(inputs.device, torch.float32)[None]
        return weights, weights.new_ones(1, inputs.shape[1], 1, dtype=torch.bool)
    keys = keys_at(offsets, inputs.shape[1]).to(inputs.device)[None] if name == "offsets" else keys_named(name, inputs)
    if name == "previous-token":
        keys[:, 0, 0] = True
    count = keys.sum(-1, keepdim=True)
    return keys / count.clamp(min=1), count > 0


_Rows = Bool[Tensor, "#batch seq 1"]
_DIAGONAL = {"itself": 0, "previous-token": -1}
_COPIES: dict[str, Callable[[Tensor], Tensor]] = {"induction": successors_of_copies, "copies": earlier_copies}
