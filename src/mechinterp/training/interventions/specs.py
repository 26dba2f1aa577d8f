"""What can be changed in a training, as data: one class of settings for each kind of intervention.

An intervention that has a `stop` acts at the steps `start <= step < stop`. Step t is the loss of the weights after t
updates, and then update t + 1: an intervention from step t changes the loss that is logged at t, the checkpoint of step
t, and all updates after the first t. `apply.py` and `course.py` say how each kind acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, cast

from pydantic import Field, FiniteFloat, field_validator, model_validator

from mechinterp.attribution import HEAD_TYPES
from mechinterp.core import ConfigError, Settings, Site, SiteError, check_word
from mechinterp.training.config import TrainConfig

CHANGEABLE = ("batch_size", "lr", "weight_decay", "beta1", "beta2", "warmup", "lr_schedule", "clip", "loss_on", "null")
"""Settings of training that may change on the way."""
Fork = Literal["q", "k", "v"]


class HeadRole(Settings):
    """The heads that play a role best, whichever they are; found once, when the intervention starts.

    Heads are ranked by their mean score (`head_scores`) on one batch of the task.

    Args:
        role: A head type.
        count: How many heads, the best first.
        run: Folder of another Run whose model is looked at; None is the model in training, at the step `start`.
        step: Of the other Run; None is its last.
        seed: Of the batch.
        examples: In the batch.
    """

    role: str
    count: int = Field(1, ge=1)
    run: str | None = None
    step: int | None = Field(None, ge=0)
    seed: int = 0
    examples: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> HeadRole:
        check_word("role of heads", self.role, HEAD_TYPES)
        if self.step is not None and self.run is None:
            raise ValueError("a step is the one of another run: name the run")
        return self


Heads = tuple[str, ...] | HeadRole
"""Addresses `L0.H1`, or `L0` for all heads of a layer; or a role."""


class Intervention(Settings):
    """A change of what a training does, from step `start` on.

    Args:
        start: First step that it changes.
    """

    start: int = Field(0, ge=0)

    @property
    def end(self) -> int | None:
        """The first step at which it no longer acts; None where it acts to the end."""
        return self.start + 1

    def active(self, step: int) -> bool:
        """Whether it acts at a step."""
        return self.start <= step and (self.end is None or step < self.end)

    @property
    def role(self) -> HeadRole | None:
        """The role that its heads play; None where it names them."""
        heads = getattr(self, "heads", None)
        return heads if isinstance(heads, HeadRole) else None

    @field_validator("heads", mode="before", check_fields=False)
    @classmethod
    def _read_heads(cls, heads: object) -> object:
        if isinstance(heads, str):
            heads = (heads,)
        for head in heads if isinstance(heads, list | tuple) else ():
            parse_heads(head)
        return heads


class _Lasting(Intervention):
    stop: int | None = None

    @property
    def end(self) -> int | None:
        return self.stop

    @model_validator(mode="after")
    def _lasts(self) -> _Lasting:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop={self.stop} is the first step without it, and must lie after start={self.start}")
        return self


class GivePattern(_Lasting):
    """Give heads an attention pattern: `(1 - strength) * own + strength * given`.

    At strength 1 no gradient reaches the heads' queries and keys.

    Args:
        to: `previous-token`: each position attends to the one before, the first to itself. `uniform`: equally to all
            that it sees. `induction`: equally to all tokens that followed an earlier copy of its own; rows without an
            earlier copy stay the head's own.
        strength: From 0, which changes no bit, to 1.
    """

    kind: Literal["pattern"] = "pattern"
    heads: Heads
    to: Literal["previous-token", "uniform", "induction"]
    strength: float = Field(1.0, ge=0, le=1)


class DisallowKeys(_Lasting):
    """Keep heads from attending to some positions; what they paid there goes to the others, by their own scores.

    Args:
        keys: `previous-token`: the position before. `itself`: the position itself. `induction`: tokens that followed an
            earlier copy of its own. `copies`: earlier copies of its own token. A row that would be empty stays.
    """

    kind: Literal["disallow"] = "disallow"
    heads: Heads
    keys: Literal["previous-token", "itself", "induction", "copies"]


class _AtSite(_Lasting):
    site: str
    heads: Heads | None = None

    @model_validator(mode="after")
    def _one_address(self) -> _AtSite:
        if self.heads is None:
            _site(self.site)
        else:
            _site(f"L0.H0.{self.site}")
        return self


class ScaleSite(_AtSite):
    """Multiply an activation by a factor; 0 ablates it, and 1 changes no bit.

    Args:
        site: An address such as `L1.H2.z`, `L0.mlp` or `logits`; `L1.z` is all heads. Attention scores are scaled where
            a key is seen, so a factor above 1 makes attention sharper.
        heads: With a site that is only a kind (`z`): of these heads.
        factor: Any number.
    """

    kind: Literal["scale"] = "scale"
    factor: FiniteFloat


class ClampSite(_AtSite):
    """Put a constant, or the mean over the batch, in the place of an activation.

    Args:
        site: As for `ScaleSite`.
        heads: As for `ScaleSite`.
        to: A number, or `batch-mean`: the mean over the examples that are run together, position by position; its
            gradient is the mean's.
    """

    kind: Literal["clamp"] = "clamp"
    to: FiniteFloat | Literal["batch-mean"] = 0.0


class GiveInput(_Lasting):
    """Let heads read token embeddings in the place of the residual stream: the input of a perfect earlier layer.

    With x_t the embedding of position t (no positions added), the queries, keys or values of position t are computed,
    norm included, from x_t (`token`) or from x_(t-1) (`previous-token`; the first position reads its own).

    Args:
        fork: Which of the heads' three inputs.
        to: `token` or `previous-token`.

    Source: Singh et al. 2024, the clamp of layer 1's inputs (keys from `previous-token`, queries and values from
    `token`). Differs: their label positions alone read the token before.
    """

    kind: Literal["input"] = "input"
    heads: Heads
    fork: Fork
    to: Literal["token", "previous-token"]


class GiveCopy(_Lasting):
    """Let heads copy perfectly.

    With `A_tj` a head's pattern and `x_j` the token at j: `logits` sets the model's output to
    `logit_t[v] = ln(1e-9 + mean over the heads of sum_j A_tj [x_j = v])`, so that the loss trains nothing but where the
    heads attend. `stream` sets what each head writes to `sum_j A_tj W_U[:, x_j]`, the directions that raise the logits
    of the tokens that it attends to.

    Source: Singh et al. 2024, perfect copy from a head's pattern to the logits. Differs: they take scores of the two
    labels in the context, which is the same up to attention paid elsewhere.
    """

    kind: Literal["copy"] = "copy"
    heads: Heads
    to: Literal["logits", "stream"] = "logits"


class KeepFork(_Lasting):
    """Keep queries, keys or values as the model computes them with its weights of step `start`.

    A copy of all weights of that step runs beside the model, without interventions; its values take the place of the
    model's, and no gradient flows through them.

    Args:
        fork: Which.
    """

    kind: Literal["keep"] = "keep"
    heads: Heads
    fork: Fork


class _OnWeights(Intervention):
    part: str
    heads: Heads | None = None


class FreezeWeights(_OnWeights, _Lasting):
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


class ChangeSettings(_Lasting):
    """Go on with other settings: of the task, of training, or with another seed of the data.

    Args:
        task: Settings of the task; the model must fit it.
        training: Settings of training, of those in `CHANGEABLE`; a learning rate keeps its schedule over all steps.
        seed: Of the data.
    """

    kind: Literal["change"] = "change"
    task: dict[str, object] = Field(default_factory=dict)
    training: dict[str, object] = Field(default_factory=dict)
    seed: int | None = None

    @model_validator(mode="after")
    def _changes(self) -> ChangeSettings:
        if not self.task and not self.training and self.seed is None:
            raise ValueError("nothing is changed: name settings of task or training, or a seed")
        for name in self.training:
            check_word("setting that may change in training:", name, CHANGEABLE)
        TrainConfig.of(self.training)
        return self


class Resolution(Settings):
    """What an intervention turned out to be when it began.

    Args:
        heads: Those that play the role that it names.
        weights: Hash of the weights that a role was found in, or a part was taken from.
    """

    heads: tuple[str, ...] = ()
    weights: str = ""


AnyIntervention = Annotated[
    GivePattern
    | DisallowKeys
    | ScaleSite
    | ClampSite
    | GiveInput
    | GiveCopy
    | KeepFork
    | FreezeWeights
    | ReinitialiseWeights
    | TransplantWeights
    | ChangeSettings,
    Field(discriminator="kind"),
]
"""Any intervention, as it stands in `run.json`."""
KINDS: Mapping[str, type[Intervention]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        *(GivePattern, DisallowKeys, ScaleSite, ClampSite, GiveInput, GiveCopy, KeepFork),
        *(FreezeWeights, ReinitialiseWeights, TransplantWeights, ChangeSettings),
    )
}
"""Kind -> its settings."""


def as_interventions(items: Iterable[object]) -> tuple[AnyIntervention, ...]:
    """Interventions from their settings, as tables of a file have them.

    Raises:
        ConfigError: If a kind or setting is unknown or a value has no meaning; says which intervention.

    >>> as_interventions([{"kind": "scale", "site": "L1.H0.z", "factor": 0}])[0].end
    """
    if isinstance(items, Intervention | Mapping):
        items = [items]
    return tuple(cast(AnyIntervention, _one(number, item)) for number, item in enumerate(items, 1))


def _one(number: int, item: object) -> Intervention:
    if isinstance(item, Intervention):
        return item
    if not isinstance(item, Mapping):
        raise ConfigError(f"intervention {number} is a {type(item).__name__}: give settings, such as kind='pattern'")
    kind = item.get("kind")
    if kind is None:
        raise ConfigError(f"intervention {number} has no kind: one of {', '.join(KINDS)}")
    check_word(f"kind of intervention ({number})", kind, KINDS)
    try:
        return KINDS[str(kind)].of(item)
    except ConfigError as error:
        reason = str(error).split(": ", 1)[-1]
        raise ConfigError(f"intervention {number} ({kind}): {reason}") from None


def parse_heads(text: object) -> tuple[int, int | None]:
    """Layer and head of `L0.H1`; None for all heads where it is `L0`.

    Raises:
        ConfigError: If it is neither.
    """
    try:
        if isinstance(text, str):
            whole = "." not in text
            site = Site.parse(f"{text}.z" if whole else text)
            if site.kind == "z" if whole else site.kind == "result":
                return site.layer or 0, site.head
    except SiteError:
        pass
    raise ConfigError(f"no heads '{text}': write 'L0.H1', or 'L0' for all heads of layer 0")


def _site(text: str) -> Site:
    try:
        return Site.parse(text)
    except SiteError as error:
        raise ConfigError(str(error)) from None
