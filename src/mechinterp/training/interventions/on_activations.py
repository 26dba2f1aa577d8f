"""Interventions in the forward pass: what attention, activations or inputs become. `apply.py` has how each acts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from mechinterp.core import ConfigError, Site, SiteError
from mechinterp.training.interventions.common import Heads, Lasting

Fork = Literal["q", "k", "v"]


class GivePattern(Lasting):
    """Give heads an attention pattern: `(1 - strength) * own + strength * given`.

    At strength 1 no gradient reaches the heads' queries and keys.

    Args:
        to: `previous-token`: each position attends to the one before, the first to itself. `uniform`: equally to all
            that it sees. `induction`: equally to all tokens that followed an earlier copy of its own; rows without an
            earlier copy stay the head's own. `offsets`: equally to the positions that lie so far back.
        offsets: With `offsets`: how far, 0 for the position itself; those before the start do not count, and rows
            without any stay the head's own. A task may say which it needs (`MovingSum.window_offsets`).
        strength: From 0, which changes no bit, to 1.
    """

    kind: Literal["pattern"] = "pattern"
    heads: Heads
    to: Literal["previous-token", "uniform", "induction", "offsets"]
    offsets: tuple[Annotated[int, Field(ge=0)], ...] = ()
    strength: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _names_offsets(self) -> GivePattern:
        if (self.to == "offsets") != bool(self.offsets):
            raise ValueError(f"to='{self.to}' with offsets={list(self.offsets)}: 'offsets', and it alone, needs them")
        return self


class DisallowKeys(Lasting):
    """Keep heads from attending to some positions; what they paid there goes to the others, by their own scores.

    Args:
        keys: `previous-token`: the position before. `itself`: the position itself. `induction`: tokens that followed an
            earlier copy of its own. `copies`: earlier copies of its own token. A row that would be empty stays.
    """

    kind: Literal["disallow"] = "disallow"
    heads: Heads
    keys: Literal["previous-token", "itself", "induction", "copies"]


class _AtSite(Lasting):
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


class GiveInput(Lasting):
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


class GiveCopy(Lasting):
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


class KeepFork(Lasting):
    """Keep queries, keys or values as the model computes them with its weights of step `start`.

    A copy of all weights of that step runs beside the model, without interventions; its values take the place of the
    model's, and no gradient flows through them.

    Args:
        fork: Which.
    """

    kind: Literal["keep"] = "keep"
    heads: Heads
    fork: Fork


def _site(text: str) -> Site:
    try:
        return Site.parse(text)
    except SiteError as error:
        raise ConfigError(str(error)) from None
