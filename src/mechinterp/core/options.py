"""Options: name, default and meaning are defined here, once, for the API, the command line, measures and claims.

A function says with `@takes` which options it takes; callers give them as keywords, the function receives one frozen,
checked `Options`, and hands it on whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, TypeVar

import torch

from mechinterp.core.errors import ConfigError, check_word
from mechinterp.core.machine import free_memory, without_modes
from mechinterp.core.metrics import Metric, resolve_metric
from mechinterp.core.sites import INPUTS

ABLATIONS = ("resample", "mean", "mean-pos", "zero")
DIRECTIONS = ("noise", "denoise")
AT = ("pos", "role", "all")
MEGABYTE = 2**20

_T = TypeVar("_T")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        kind: Its type.
        default: Its value where none is given; None where it depends on the model or on other options.
        help: What it means, in one sentence.
        words: The words it takes, if it takes words.
    """

    kind: Any
    default: Any
    help: str
    words: tuple[str, ...] = ()

    def check(self, name: str, value: _T) -> _T:
        """Return the value if the option takes it.

        Raises:
            ConfigError: If it is none of the option's words.
        """
        if self.words:
            check_word(name, value, self.words)
        return value


OPTIONS: Mapping[str, Option] = {
    "metric": Option(
        str | Callable | None, None,
        "What to measure: the name of a metric (or in Python a function); by default logit_diff, or mse for a model "
        "that writes real values.",
    ),
    "direction": Option(
        str, "noise", "noise puts the other value into the clean run, denoise the clean value into the corrupted run.",
        DIRECTIONS,
    ),
    "ablation": Option(
        str, "resample",
        "What an ablated source carries: its corrupted value (resample), its mean over examples (mean) or over "
        "examples and positions (mean-pos), or zero.",
        ABLATIONS,
    ),
    "inputs": Option(str, "merged", "Embedding and positions as one source (merged) or as two (split).", INPUTS),
    "budget_mb": Option(
        float | None, None,
        "Memory for runs beside the model, in MB: examples and patches are run in parts that fit it, at least one at a "
        "time. It changes the time, not the result. By default what runs fastest, and at most half of what is free.",
    ),
    "site": Option(str, "z", "A kind of site (z, resid_post, mlp, ...) or one address (L1.H3.z)."),
    "at": Option(str, "pos", "Patch every position, the position of every role, or all positions at once.", AT),
    "corruption": Option(str, "all", "Corruption of the pairs: one of the task's, or all in equal parts."),
    "share": Option(float, 0.9, "Share of the gap that a circuit is to recover on the pairs that it is searched on."),
    "examples": Option(int, 64, "Number of examples."),
    "seed": Option(int, 0, "Seed of the examples and of everything random."),
    "nulls": Option(int, 100, "Number of random circuits to compare with."),
    "untrained": Option(int, 99, "Number of untrained models to compare with."),
}  # fmt: skip
"""Every option that more than one door has."""


@dataclass(frozen=True)
class Options:
    """How an intervention is made and measured.

    Args:
        metric: What is measured, a name or a function; None is the default of the model's outputs.
        direction: `noise` or `denoise`.
        ablation: `resample`, `mean`, `mean-pos` or `zero`.
        inputs: `merged` or `split`.
        budget_mb: Memory for runs beside the model; None for what runs fastest.

    Raises:
        ConfigError: If a word is unknown, direction and ablation have no meaning together, or there is no memory.

    >>> Options(ablation="zero").change(inputs="split")
    Options(metric=None, direction='noise', ablation='zero', inputs='split', budget_mb=None)
    """

    metric: str | Metric | None = OPTIONS["metric"].default
    direction: str = OPTIONS["direction"].default
    ablation: str = OPTIONS["ablation"].default
    inputs: str = OPTIONS["inputs"].default
    budget_mb: float | None = OPTIONS["budget_mb"].default

    def __post_init__(self) -> None:
        for name in ("ablation", "direction", "inputs"):
            OPTIONS[name].check(name, getattr(self, name))
        if self.metric is not None:
            resolve_metric(self.metric)
        if self.direction == "denoise" and self.ablation != "resample":
            raise ConfigError(
                "direction='denoise' puts clean values into the corrupted run, so it takes ablation='resample', "
                f"not '{self.ablation}'; use direction='noise'"
            )
        if self.budget_mb is not None and not self.budget_mb > 0:
            raise ConfigError(f"budget_mb={self.budget_mb}: must be above 0")

    def memory(self, fastest_mb: float, device: torch.device) -> float:
        """Bytes for runs beside the model.

        Args:
            fastest_mb: On a CPU more would be slower: what stays in the processor's cache runs faster than all at once.
            device: Where the model is.
        """
        budget = free_memory(device) / 2 if self.budget_mb is None else self.budget_mb * MEGABYTE
        return min(budget, fastest_mb * MEGABYTE) if device.type == "cpu" else budget

    def change(self, **options: object) -> Options:
        """A copy with some options changed."""
        return replace(self, **options)

    def for_model(self, model: object) -> Options:
        """The same, with the metric that a model's outputs ask for where none is given."""
        return self if self.metric is not None else self.change(metric=default_metric(model))

    @property
    def resolved_metric(self) -> tuple[str, Metric]:
        """The metric's name and function.

        Raises:
            ConfigError: If none is named: `for_model` fills it in.
        """
        if self.metric is None:
            raise ConfigError("no metric is named")
        return resolve_metric(self.metric)

    @property
    def metric_name(self) -> str:
        """The metric's name."""
        return self.resolved_metric[0]

    def attrs(self, *names: str) -> dict[str, object]:
        """Some options as a result's attributes."""
        return {name: self.metric_name if name == "metric" else getattr(self, name) for name in names}


def default_metric(model: object) -> str:
    """`mse` for a model that writes real values, `logit_diff` for one that writes logits."""
    values = getattr(getattr(model, "cfg", None), "outputs", "logits") == "values"
    return "mse" if values else "logit_diff"


TRAVELLING = tuple(item.name for item in fields(Options))
"""Options that travel together through an analysis, as one `Options`."""


def takes(*names: str, **defaults: Any) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Let a function take options as keywords, and receive them as one `Options`.

    The function has a keyword-only parameter `options`. Callers give single options, or `options=` a whole value, or
    both (single ones win). The signature shows every option with its default, and the docstring its meaning.

    Args:
        *names: Options that it takes, of those that `Options` holds.
        **defaults: Defaults of its own, where they differ from `OPTIONS`.

    >>> @takes("ablation", "metric", metric="kl")
    ... def faithfulness(model, *, options):
    ...     return options.ablation, options.metric
    >>> faithfulness(None, ablation="zero"), str(inspect.signature(faithfulness)).split(", options")[0]
    (('zero', 'kl'), "(model, *, metric=\'kl\', ablation=\'resample\'")
    """
    chosen = [name for name in TRAVELLING if name in {*names, *defaults}]

    def decorate(function: Callable[..., _T]) -> Callable[..., _T]:
        base = Options(**defaults)

        @wraps(function)
        def with_options(*args: object, options: Options | None = None, **keywords: object) -> _T:
            single = {name: keywords.pop(name) for name in chosen if name in keywords}
            with without_modes():
                return function(*args, options=replace(base if options is None else options, **single), **keywords)

        shown = inspect.signature(function)
        own = [item for item in shown.parameters.values() if item.name != "options"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options = [inspect.Parameter(name, keyword, default=getattr(base, name)) for name in chosen]
        whole = inspect.Parameter("options", keyword, default=None)
        with_options.__signature__ = shown.replace(parameters=[*own, *options, whole])  # type: ignore[attr-defined]
        meanings = "\n".join(f"    {name}: {OPTIONS[name].help}" for name in chosen)
        with_options.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{meanings}\n"
        return with_options

    return decorate
