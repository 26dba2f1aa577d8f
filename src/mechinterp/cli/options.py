"""Arguments and options that several verbs share, and the model and pair that they choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mechinterp.cli.table import PAIR, about, dashed, load_options

if TYPE_CHECKING:
    from mechinterp.core import Pair

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a Run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Step = Annotated[int | None, typer.Option("--step", help="Step of the checkpoint (the last one).")]
Values = dict[str, Any]
"""Option -> what the user gave."""

_KINDS = {"int": int, "float": float}


def takes(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the shared options of its verb, in place of its keyword-only parameter `options`.

    The command receives the options that the user gave, as one dict. An option that is not given is not passed on, so
    that its default is the one of the API.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        rows = load_options()[verb]
        names = [row["name"] for row in rows]

        @wraps(command)
        def with_options(**words: Any) -> Any:
            options = given(**{name: words.pop(name) for name in names})
            _check_words(options)
            return command(**words, options=options)

        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for item in signature.parameters.values():
            parameters += [_parameter(row) for row in rows] if item.name == "options" else [item]
        with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_options

    return decorate


def given(**options: Any) -> Values:
    """Only the options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Chosen:
    """The model and the pair that a command line chooses.

    Args:
        model: The model at one step of the Run.
        pair: Pairs of the Run's task.
        options: The other options that were given.
        origin: The Run's folder, the step, and what the pair was drawn with.
    """

    model: Any
    pair: Pair
    options: Values
    origin: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed of the pair, and of all else that is random."""
        return self.origin["seed"]


def choose(verb: str, run: str, step: int | None, options: Values) -> Chosen:
    """Open a Run at a step, and draw a pair with the verb's options."""
    from mechinterp.training import Run

    opened = Run(run)
    defaults = {row["name"]: row["default"] for row in load_options()[verb]}
    drawn = {name: options.get(name, defaults[name]) for name in PAIR}
    pair = opened.task.pair(drawn["examples"], drawn["seed"], drawn["corruption"])
    rest = {name: value for name, value in options.items() if name not in PAIR}
    origin = {"run": str(run), "step": opened.steps[-1] if step is None else step, **drawn}
    return Chosen(opened.model(step), pair, rest, origin)


def check_fit(what: str, function: Callable[..., Any], options: Values) -> None:
    """Refuse options that a function of the API does not take.

    Raises:
        ConfigError: If there is one.
    """
    from mechinterp.core import ConfigError

    foreign = [f"--{dashed(name)}" for name in options if name not in inspect.signature(function).parameters]
    if foreign:
        raise ConfigError(f"{what} take no {' and no '.join(foreign)}")


def _check_words(options: Values) -> None:
    """Refuse a misspelt word before anything is read or run."""
    from mechinterp.core import OPTIONS, resolve_metric

    for name, value in options.items():
        OPTIONS[name].check(name, value)
    if "metric" in options:
        resolve_metric(options["metric"])


def _parameter(row: dict[str, Any]) -> inspect.Parameter:
    flag = typer.Option(f"--{dashed(row['name'])}", help=about(row), metavar=_metavar(row), show_default=False)
    kind = Annotated[_KINDS.get(row["kind"], str) | None, flag]
    return inspect.Parameter(row["name"], inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _metavar(row: dict[str, Any]) -> str | None:
    return f"[{'|'.join(row['choices'])}]" if "choices" in row else None
