"""A model's plain run on a batch, computed once for everything that looks at it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import Batch, HookedModel, Site
from mechinterp.core.memo import remembered, remembers
from mechinterp.interventions.hooks import as_hooked, quiet, record
from mechinterp.interventions.placement import on_model
from mechinterp.models import Transformer

_Run = tuple[Tensor, tuple[Tensor, ...]]


def outputs(model: HookedModel | nn.Module, batch: Batch) -> Float[Tensor, "batch seq out"]:
    """What a model writes on a batch, on the CPU.

    Args:
        model: Any model.
        batch: Its examples; all are run at once.
    """
    return _run(model, batch, streams=False)[0]


def streams(model: Transformer, batch: Batch) -> Sequence[Float[Tensor, "batch seq d_model"]]:
    """The residual stream after each layer, on the model's device.

    Args:
        model: The model.
        batch: Its examples; all are run at once.
    """
    return _run(model, batch, streams=True)[1]


def _run(model: HookedModel | nn.Module, batch: Batch, *, streams: bool) -> _Run:
    # Reading the stream changes no bit of the output, so the value does not depend on who asks first.
    both = streams or (remembers("runs") and isinstance(model, Transformer))

    def run() -> _Run:
        inputs = on_model(batch, model).inputs
        if not both:
            with quiet(model):
                return model(inputs).detach().cpu(), ()
        sites = [Site("resid_post", layer) for layer in range(as_hooked(model).cfg.n_layers)]
        with torch.no_grad():
            output, values = record(model, inputs, sites)
        return output.cpu(), tuple(values[site.hook] for site in sites)

    return remembered("runs", (model, batch), run)
