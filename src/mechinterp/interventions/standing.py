"""A model that is run under the same edits each time: as it was trained, say, when its training was intervened in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mechinterp.interventions.hooks import hook_name
from mechinterp.models import ModelConfig, Transformer


@dataclass(eq=False)
class Pass:
    """One forward pass, for the edits in it.

    Args:
        model: Runs.
        inputs: What it reads.
        values: What edits leave for later ones, by name.
    """

    model: Transformer
    inputs: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


PassEdit = Callable[[Pass, Tensor], Tensor]
"""From an activation to its replacement, of the same shape."""


@dataclass(frozen=True, eq=False)
class StandingEdits:
    """Edits that each forward pass of a model is run under.

    Args:
        hooked: Names of hook points with their edits; those of one hook point act in this order.
        output: Edits of the output, after all others.
        before: Called with the pass before it begins.
    """

    hooked: Sequence[tuple[str, PassEdit]] = ()
    output: Sequence[PassEdit] = ()
    before: Sequence[Callable[[Pass], None]] = ()

    def __bool__(self) -> bool:
        return bool(self.hooked or self.output)


class EditedTransformer(nn.Module):
    """A `Transformer` under standing edits, for whatever runs a model forward.

    It has the model's hook points; what is recorded there is what the edits leave. What starts a model again from the
    middle, or reads its weights, wants the plain model, and refuses this one.

    Args:
        model: The plain model.
        edits: Of each forward pass.

    Raises:
        SiteError: If the model has no hook point of some name.
    """

    def __init__(self, model: Transformer, edits: StandingEdits) -> None:
        super().__init__()
        for name, _ in edits.hooked:
            hook_name(model, name)
        self.model, self.edits = model, edits

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.model.config

    @property
    def cfg(self) -> Any:
        """The architecture under TransformerLens's names."""
        return self.model.cfg

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name."""
        return self.model.hook_dict

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def untrained(self, seed: int) -> EditedTransformer:
        """A model before training, under the same edits."""
        return EditedTransformer(self.model.untrained(seed), self.edits)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run_with_hooks(inputs)

    def run_with_hooks(self, inputs: Tensor, fwd_hooks: Sequence[Any] = (), bwd_hooks: Sequence[Any] = ()) -> Tensor:
        """As in TransformerLens; hooks that are given here come after the edits."""
        now = Pass(self.model, inputs)
        for prepare in self.edits.before:
            prepare(now)
        own = [(name, partial(_edited, edit, now)) for name, edit in self.edits.hooked]
        output = self.model.run_with_hooks(inputs, fwd_hooks=[*own, *fwd_hooks], bwd_hooks=bwd_hooks)
        for edit in self.edits.output:
            output = edit(now, output)
        return output


def _edited(edit: PassEdit, now: Pass, value: Tensor, hook: object) -> Tensor:
    return edit(now, value)
