"""What all interventions have in common: the steps at which they act, and the heads that they name."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from mechinterp.attribution import HEAD_TYPES
from mechinterp.core import ConfigError, Settings, Site, SiteError, check_word


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


class Lasting(Intervention):
    """An intervention that ends.

    Args:
        stop: First step that it no longer changes; None where it acts to the end.
    """

    stop: int | None = None

    @property
    def end(self) -> int | None:
        return self.stop

    @model_validator(mode="after")
    def _lasts(self) -> Lasting:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop={self.stop} is the first step without it, and must lie after start={self.start}")
        return self


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
