"""What a claim is: data, checked when it is read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mechinterp.core import Circuit, ConfigError, MechinterpError, Settings
from mechinterp.curves import LASTS

Verdict = Literal["reproduced", "weaker", "not reproduced", "not testable at this scale"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "weaker", "not reproduced", "not testable at this scale")
"""What a claim's numbers can say, from best to worst."""
Undecided = Literal["not decided"]
UNDECIDED: Undecided = "not decided"
"""There are no numbers: the process that measured them died."""
Mode = Literal["shipped", "retrained"]
Purpose = Literal["mechanism", "contrast", "control"]
"""What a claim is for. `mechanism`: what a trained model does, or by what means; it fails for a model that learnt
nothing. `contrast`: how two models, steps, or settings of the task differ. `control`: what a model that learnt nothing
may meet, too: that something is not there, in the model or in one without the circuit; or a hint that weights give."""


class Select(Settings):
    """How one number is taken from a measure's labelled result.

    Args:
        where: Dimension -> coordinate (or list of them). In an edge, `{previous_token}` and `{induction}` stand for
            the best heads of these types.
        head_type: Take the layer and head of the best head of a type, chosen by its attention score **on other
            examples** than those that are measured.
        reduce: How the dimensions that are left become one number; `example` is always averaged first.
        above: For `count`: count the entries that are at least this.
    """

    where: Mapping[str, object] = Field(default_factory=dict)
    head_type: Literal["previous_token", "induction", "duplicate_token"] | None = None
    reduce: Literal["only", "mean", "min", "max", "count"] = "only"
    above: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Select:
        if (self.reduce == "count") != (self.above is not None):
            raise ValueError("reduce='count' and above belong together")
        return self


class Passage(Settings):
    """When a series over checkpoints first passes thresholds and stays past them, instead of its value at the end.

    Args:
        chance: What the measure is without the thing measured.
        best: What it is at its best.
        thresholds: Shares of the range from `chance` to `best`; an ordering has to hold at all of them.
        hold: Consecutive checkpoints that must be past a threshold.
        lasts: For how long in ln t, however dense the checkpoints are.
    """

    chance: float
    best: float
    thresholds: tuple[float, ...] = Field((0.1, 0.25, 0.5), min_length=1)
    hold: int = Field(2, ge=1)
    lasts: float = Field(LASTS, ge=0)


class Quantity(Settings):
    """A number that a model has.

    Args:
        model: Which of the circuit's models; for a claim about a single model any name will do.
        step: `final`; `untrained`, the same model before its first update; or the step of a checkpoint.
        task: Settings of the task that differ from those it was trained with.
        measure: Name of a measure.
        params: The measure's parameters; `{circuit}` stands for the edges of the shipped circuit, `{previous_token}`
            and `{induction}` in an edge for the best heads of these types.
        select: How one number is taken from the measure's table.
        passage: Take the step at which the number first passes thresholds.
    """

    model: str = "model"
    step: Literal["final", "untrained"] | int = "final"
    task: Mapping[str, object] = Field(default_factory=dict)
    measure: str
    params: Mapping[str, object] = Field(default_factory=dict)
    select: Select = Field(default_factory=Select)
    passage: Passage | None = None


class Known(Settings):
    """A verdict that falls short and is documented: it does not count as a failure.

    Args:
        verdict: The expected verdict.
        why: The reason in one sentence; the README says more.
    """

    verdict: Verdict
    why: str


class Claim(Quantity):
    """A statement in numbers, with its source, and what counts as reproducing it.

    Args:
        id: Short name, unique in its circuit.
        sentence: What is claimed, in words.
        purpose: What it is for: `mechanism`, `contrast` or `control`; see `Purpose`.
        source: Paper and section, figure or table; or `own`.
        published: The value in the source, where it gives one.
        against: A second quantity, as changes to this one. The claim is then about this one minus that one; with
            `passage`, about the steps by which that one comes later, at the least favourable threshold.
        relative: Divide by `against` instead: this one over that one; with `passage`, how many times as many steps
            that one takes.
        compare: `>=`, `<=`, `between` low and high, `equals` value within `within`, or `after`: more than `value`, in
            so many of the models that chance does not explain it (a sign test over five or more).
        value: Bound or wanted value.
        high: Upper bound of `between`.
        within: Largest distance from `value` for `equals`.
        weaker: Bound that still shows the effect, if weakly (for `>=`, `<=`).
        on: Which models it can be checked on. A `passage` needs the dense checkpoints of models trained from scratch.
        known: A documented verdict that falls short.
        not_testable: Why the claim cannot be checked at this scale; it is listed with that verdict.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    sentence: str
    purpose: Purpose
    source: str = "own"
    published: float | None = None
    against: Mapping[str, object] | None = None
    relative: bool = False
    compare: Literal[">=", "<=", "between", "equals", "after"]
    value: float
    high: float | None = None
    within: float | None = None
    weaker: float | None = None
    on: tuple[Mode, ...] = ("shipped", "retrained")
    known: Known | None = None
    not_testable: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Claim:
        if (self.compare == "between") != (self.high is not None):
            raise ValueError("compare='between' and high belong together")
        if (self.compare == "equals") != (self.within is not None):
            raise ValueError("compare='equals' and within belong together")
        if self.weaker is not None and self.compare in ("between", "equals", "after"):
            raise ValueError(f"compare='{self.compare}' has no weaker bound")
        if (
            self.weaker is not None
            and (self.weaker > self.value) != (self.compare == "<=")
            and self.weaker != self.value
        ):
            raise ValueError(f"weaker={self.weaker} is stricter than {self.compare} {self.value}")
        if self.passage is not None and "shipped" in self.on and not self.not_testable:
            raise ValueError("too few checkpoints are shipped to date anything: write on=['retrained']")
        if self.passage is not None and self.against is None and len(self.passage.thresholds) > 1:
            raise ValueError("a passage that is not compared with another one needs one threshold")
        if self.relative and self.against is None:
            raise ValueError("relative compares two quantities: give against")
        if self.compare == "after" and (self.passage is None or self.against is None):
            raise ValueError("compare='after' is about which comes first: give passage and against")
        if self.purpose == "contrast" and self.against is None and not self.not_testable:
            raise ValueError("purpose='contrast' compares two quantities: give against")
        if self.purpose == "mechanism" and self.step == "untrained":
            raise ValueError("purpose='mechanism' is about a trained model: what an untrained one does is a control")
        self.other  # noqa: B018  (an `against` that makes no sense is an error now, not when it is measured)
        return self

    def change(self, **settings: object) -> Claim:
        """A copy with some settings changed."""
        return Claim(**{**{name: getattr(self, name) for name in self.model_fields_set}, **settings})

    @property
    def quantity(self) -> Quantity:
        """What is measured."""
        return Quantity(**{name: getattr(self, name) for name in Quantity.model_fields})

    @property
    def other(self) -> Quantity | None:
        """What it is compared with: this claim's quantity with the changes of `against`."""
        if self.against is None:
            return None
        return Quantity(**{**self.quantity.model_dump(), **self.against})

    @property
    def models(self) -> set[str]:
        """The names of the models that it is about."""
        return {self.model} | ({self.other.model} if self.other is not None else set())

    @property
    def tolerance(self) -> str:
        """What counts as reproduced, in one line."""
        if self.compare == "between":
            return f"{self.value:g} to {self.high:g}"
        if self.compare == "equals":
            return f"{self.value:g} ± {self.within:g}"
        if self.compare == "after":
            return f"> {self.value:g}, p <= .05"
        return f"{self.compare} {self.value:g}" + (
            "" if self.weaker is None else f" (weaker: {self.compare} {self.weaker:g})"
        )


class ClaimsFile(Settings):
    """A whole `claims.toml`.

    Args:
        about: The circuit in one sentence.
        main: The model that the circuit lies in.
        seeds: How many models of each kind are trained to confirm the claims; an order needs at least five.
        models: The shipped models, by name: what each is.
        circuit: The main model's circuit, as `Circuit.to_dict` writes it.
        claims: In the order of the file.
    """

    about: str
    main: str
    seeds: int = Field(5, ge=1)
    models: dict[str, str]
    circuit: dict[str, object]
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _fits(self) -> ClaimsFile:
        names = [claim.id for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two claims are called '{twice[0]}'")
        named = {self.main}.union(*(claim.models for claim in self.claims))
        if named - set(self.models):
            raise ValueError(f"no model '{min(named - set(self.models))}' in [models]")
        Circuit.from_dict(self.circuit)
        return self


def read_claims(path: Path) -> ClaimsFile:
    """Read and check a `claims.toml`.

    Raises:
        ConfigError: If it cannot be read, is no TOML, or has a setting that does not exist or has no meaning.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    listed = data.get("claims")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ConfigError(f"{path} lists no claims: write each under [[claims]]")
    try:
        claims = []
        for number, one in enumerate(listed, start=1):
            try:
                claims.append(Claim(**one))
            except ConfigError as error:
                raise ConfigError(f"claim {one.get('id', number)}: {error}") from None
        return ClaimsFile(**{**data, "claims": claims})
    except MechinterpError as error:
        raise ConfigError(f"{path}: {error}") from None
