"""`Task`, what every task gives, and the registry that finds a task by its name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from inspect import isabstract
from typing import ClassVar, TypeVar

from torch import Tensor
from torch.nn import functional

from mechinterp.core import (
    OPTIONS,
    Batch,
    ConfigError,
    Pair,
    Settings,
    ShapeError,
    UnsupportedError,
    derive_seed,
    inside_modes,
    suggest,
    without_modes,
)
from mechinterp.core.memo import remembered

Predictor = Callable[[Batch], Tensor]
Draw = Callable[..., Pair]
ALL = OPTIONS["corruption"].default
"""Asks for pairs of all corruptions, in equal parts."""
_REGISTRY: dict[str, type[Task]] = {}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Preset:
    """The model and the training that are known to work on a task, as plain settings.

    Args:
        model: Settings of `ModelConfig`.
        training: Settings of `TrainConfig`.
    """

    model: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)


class Task(Settings):
    """A seeded rule that draws sequences and their right answers.

    A subclass is a frozen set of typed settings with a `name`, and is found by that name from then on. It must write
    `batch`; each further method it writes opens one more analysis. Everything is drawn from the seed it is handed.
    `trivial` names those of its predictors that answer without a circuit: a model that is no better does not do the
    task.
    Its `pair` draws one corruption at a time; pairs of all corruptions are mixed from those here.

    >>> import torch
    >>> from mechinterp.core import generator
    >>> class Echo(Task):
    ...     '''Repeat the token just read.'''
    ...     name = "echo-example"
    ...     vocab: int = 8
    ...     def batch(self, batch: int = 64, seed: int = 0) -> Batch:
    ...         tokens = torch.randint(self.vocab, (batch, 5), generator=generator(seed, self.name))
    ...         return Batch(tokens, tokens, tokens >= 0)
    >>> get("echo-example", vocab=4).to_dict()
    {'name': 'echo-example', 'vocab': 4}
    """

    name: ClassVar[str]
    corruptions: ClassVar[tuple[str, ...]] = ()
    trivial: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # The method may come from an abstract class or from one that is no task.
        if cls.pair is not Task.pair and not hasattr(cls.pair, "of_all_corruptions"):
            cls.pair = _of_all_corruptions(cls.pair)
        for draw in ("batch", "pair", "training_batch", "predictors"):
            if draw in cls.__dict__:
                setattr(cls, draw, _drawn(cls.__dict__[draw]))
        if isabstract(cls):
            return
        if not isinstance(cls.__dict__.get("name"), str):
            raise ConfigError(f"task class {cls.__name__} has no name of its own: add a line such as name = 'my-task'")
        known = _REGISTRY.get(cls.name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"a task named '{cls.name}' exists already ({known.__module__}.{known.__qualname__})")
        _REGISTRY[cls.name] = cls

    @abstractmethod
    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw examples.

        Args:
            batch: How many.
            seed: The same seed draws the same examples.
        """

    @property
    def latents(self) -> Mapping[str, int | None]:
        """Hidden variables that a probe may look for: name -> number of classes, or None for a real value."""
        return {}

    @property
    def unit(self) -> str:
        """Of the loss: nats, or for real values squared distance."""
        return "squared distance" if self.batch(1).targets.is_floating_point() else "nats"

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw examples with corrupted twins.

        One corruption shows one part of a circuit: one that changes what the answer is copied from says nothing about
        how the place is found. A mixture shows every edge that some corruption shows; an effect is then the mean over
        corruptions, and `Pair.by_corruption` parts them again. A role that one of them lacks is -1 in its examples.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: One of `corruptions`, or `all` of them in equal parts.

        Raises:
            UnsupportedError: If the task has no pairs.
            ConfigError: If there is no such corruption.
        """
        raise UnsupportedError(f"task '{self.name}' has no pairs: write its method pair(batch, seed, corruption)")

    def groups(self, batch: Batch) -> dict[str, Tensor]:
        """Positions whose loss is worth a line of its own: name -> mask, bool `[batch, seq]`."""
        return {"scored": batch.scored}

    def predictors(self) -> dict[str, Predictor]:
        """Reference predictors: name -> function from a batch to its output.

        For tokens that output is log probabilities `[batch, seq, vocab]`, for real values `[batch, seq, d_out]`.
        """
        return {}

    def variants(self) -> dict[str, Task]:
        """The same task under conditions that training does not show, to ask what a model has learnt: name -> task."""
        return {}

    def preset(self) -> Preset:
        """The configuration that is known to work.

        Raises:
            UnsupportedError: If none is known.
        """
        raise UnsupportedError(f"task '{self.name}' has no preset: name a model and a training configuration")

    def training_batch(self, batch: int, seed: int, step: int) -> Batch:
        """What training sees at one step: fresh examples, a function of seed and step alone (so resuming is exact).

        A task with a fixed training set overrides this; its test examples can ride along as a group that is not
        scored.
        """
        return self.batch(batch, derive_seed(seed, "data", step))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss at every position, `[batch, seq]`: cross-entropy in nats for tokens, squared distance for real values.

        Args:
            output: Logits `[batch, seq, vocab]` or values `[batch, seq, d_out]`.
            batch: Where it has no target (-1), the loss is 0.

        Raises:
            ShapeError: If output and targets do not fit each other.
        """
        targets = batch.targets
        if targets.is_floating_point():
            wanted = targets[..., None] if targets.ndim == 2 else targets
            if wanted.shape != output.shape:
                raise ShapeError(f"outputs are {list(output.shape)}, targets {list(wanted.shape)}")
            return (output - wanted).square().sum(-1)
        if output.shape[:2] != targets.shape:
            raise ShapeError(f"logits {list(output.shape)} do not fit target tokens {list(targets.shape)}")
        flat = functional.cross_entropy(output.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        return flat.view_as(targets)

    def to_dict(self) -> dict[str, object]:
        """Name and settings as plain data for JSON or TOML."""
        return {"name": self.name, **self.model_dump(mode="json")}


def _drawn(method: Callable[..., _T]) -> Callable[..., _T]:
    """A method that draws: the same under every mode of torch, and once while draws are remembered."""

    plain = without_modes()(method)
    # Training asks for each batch once.
    each_time = method.__name__ == "training_batch"

    @wraps(method)
    def draw(self: Task, *args: object, **keywords: object) -> _T:
        if each_time:
            # The context would cost more than some draws, which must cost nothing beside a step.
            return plain(self, *args, **keywords) if inside_modes() else method(self, *args, **keywords)
        key = (method, self, args, tuple(sorted(keywords.items())))
        return remembered("draws", key, partial(plain, self, *args, **keywords))

    return draw


def _of_all_corruptions(draw: Draw) -> Draw:
    """A task's `pair`, from a method that draws pairs of one corruption."""

    def of_one(self: Task, batch: int, seed: int, kind: str) -> Pair:
        return replace(draw(self, batch, seed, kind).with_corruption(kind), task=self)

    @wraps(draw)
    def pair(self: Task, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        known = self.corruptions
        if not known:
            return replace(draw(self, batch, seed, corruption), task=self)
        if corruption != ALL and corruption not in known:
            raise ConfigError(
                f"task '{self.name}' has no corruption '{corruption}'.{suggest(corruption, [*known, ALL])}"
            )
        if corruption != ALL or len(known) == 1:
            return of_one(self, batch, seed, known[0] if corruption == ALL else corruption)
        kinds = known[:batch]
        sizes = [batch // len(kinds) + (number < batch % len(kinds)) for number in range(len(kinds))]
        seeds = [derive_seed(seed, "pair", kind) for kind in kinds]
        return Pair.join([of_one(self, *part) for part in zip(sizes, seeds, kinds, strict=True)])

    pair.of_all_corruptions = True  # type: ignore[attr-defined]
    return pair


def names() -> list[str]:
    """Names of all tasks known in this process, users' own among them."""
    return sorted(_REGISTRY)


def get(name: str, **settings: object) -> Task:
    """The task of that name.

    Raises:
        ConfigError: If there is none, or a setting is wrong.

    >>> get("induction", seq_len=32, segment=8).name
    'induction'
    """
    return task_class(name)(**settings)


def task_class(name: str) -> type[Task]:
    """The class of that name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in _REGISTRY:
        raise ConfigError(f"no task '{name}'.{suggest(name, _REGISTRY)}")
    return _REGISTRY[name]


def from_dict(data: Mapping[str, object]) -> Task:
    """The reverse of `Task.to_dict`.

    Raises:
        ConfigError: If the name is missing or unknown, or a setting is wrong.
    """
    name = data.get("name")
    if not isinstance(name, str):
        raise ConfigError("a task is written as {'name': 'induction', ...}; the name is missing")
    return task_class(name)(**{setting: value for setting, value in data.items() if setting != "name"})
