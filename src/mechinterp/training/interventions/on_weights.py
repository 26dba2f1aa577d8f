"""Interventions in weights and in settings of training. `course.py` has how each acts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mechinterp.core import check_word
from mechinterp.training.config import TrainConfig
from mechinterp.training.interventions.common import Heads, Intervention, Lasting

CHANGEABLE = (
    "batch_size",
    "lr",
    "weight_decay",
    "beta1",
    "beta2",
    "warmup",
    "lr_schedule",
    "clip",
    "loss_on",
    "null",
    "data_seed",
)
"""Settings of training that may change on the way."""


class _OnWeights(Intervention):
    part: str
    heads: Heads | None = None


class FreezeWeights(_OnWeights, Lasting):
    """Hold a part of the weights, bit for bit, while all else trains.

    Its gradient counts as zero, also in the norm that is clipped and in AdamW's averages, and no decay touches it.

    Args:
        part: An address: `all`, `embed`, `pos`, `unembed`, `readout`, `ln_final`, `L0`, `L0.attn`, `L0.mlp`, `L0.ln1`,
            `L0.H1`, `L0.H1.k`, `L0.k` (q, k, v or o).
        heads: With a part that is only `head`, `q`, `k`, `v` or `o`: of these heads.
    """

    kind: Literal["freeze"] = "freeze"


class ReinitialiseWeights(_OnWeights):
    """Draw a part of the weights again at step `start`; AdamW's averages of it become zero.

    Args:
        part: As for `FreezeWeights`.
        heads: As for `FreezeWeights`.
        seed: Of the draw, independent of the Run's.
    """

    kind: Literal["reinitialise"] = "reinitialise"
    seed: int = 0


class TransplantWeights(_OnWeights):
    """Put another Run's weights in the place of a part at step `start`; AdamW's averages of it become zero.

    Args:
        part: As for `FreezeWeights`.
        heads: As for `FreezeWeights`.
        run: Folder of the other Run.
        step: Of its checkpoint; None is the last.
    """

    kind: Literal["transplant"] = "transplant"
    run: str
    step: int | None = Field(None, ge=0)


class ChangeSettings(Lasting):
    """Go on with other settings: of the task, or of training (among them the seed of the data).

    Args:
        task: Settings of the task; the model must fit it.
        training: Settings of training, of those in `CHANGEABLE`; a learning rate keeps its schedule over all steps.
    """

    kind: Literal["change"] = "change"
    task: dict[str, object] = Field(default_factory=dict)
    training: dict[str, object] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _changes(self) -> ChangeSettings:
        if not self.task and not self.training:
            raise ValueError("nothing is changed: name settings of task or training")
        for name in self.training:
            check_word("setting that may change in training:", name, CHANGEABLE)
        TrainConfig.of(self.training)
        return self
