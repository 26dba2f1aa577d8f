"""From a verb's function to its command: the arguments and options that verbs share, and what they choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mechinterp.cli.output import CommandOutput, waiting
from mechinterp.cli.table import PAIR, TAKES_OWN_TASK, VERB_OPTIONS, SettingRow, about, dashed, load_options

if TYPE_CHECKING:
    from torch import nn

    from mechinterp.core import Pair
    from mechinterp.training import Run

_T = TypeVar("_T")
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a Run.", show_default=False)]
Step = Annotated[int | None, typer.Option("--step", help="Step of the checkpoint (the last one).")]
OwnTask = Annotated[
    str, typer.Option("--task", help="FILE.py:CLASS of your own task; the file is run. Shipped tasks need no file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The Run that a command line names, and the shared options that it gives.

    Args:
        verb: The verb.
        folder: Of the Run.
        step: Of the checkpoint; None for the last one.
        options: Option -> value. What is not given is not passed on, so that the default of the API counts.

    Raises:
        ConfigError: If an option has a misspelt word; before anything is read or run.
    """

    verb: str
    folder: str
    step: int | None
    options: Mapping[str, object]

    def __post_init__(self) -> None:
        if self.options:
            from mechinterp.core import OPTIONS, resolve_metric

            for name, value in self.options.items():
                OPTIONS[name].check(name, value)
            if isinstance(metric := self.options.get("metric"), str):
                resolve_metric(metric)

    @cached_property
    def run(self) -> Run:
        """The Run, opened."""
        from mechinterp.training import Run

        return Run(self.folder)

    @cached_property
    def model(self) -> nn.Module:
        """The model at the step."""
        return self.run.model(self.step)

    @cached_property
    def drawn(self) -> dict[str, object]:
        """What the pair is drawn with; empty for a verb without a pair."""
        defaults = {row["name"]: row["default"] for row in load_options()[self.verb]}
        return {name: self.options.get(name, defaults[name]) for name in PAIR} if "corruption" in defaults else {}

    @cached_property
    def pair(self) -> Pair:
        """The pair."""
        draw: Callable[..., Pair] = self.run.task.pair
        return draw(*(self.drawn[name] for name in ("examples", "seed", "corruption")))

    @property
    def origin(self) -> dict[str, object]:
        """Where a result comes from: the folder, the step, and what the pair was drawn with."""
        return {"run": self.folder, "step": self.run.steps[-1] if self.step is None else self.step, **self.drawn}

    def call(self, what: str, function: Callable[..., _T], *nouns: object, **settings: object) -> _T:
        """Call a function of the API with the options that were given, behind its own bars or a spinner.

        Args:
            what: The subject, for the spinner and the error.
            function: Of the API.
            *nouns: Its first arguments.
            **settings: Flags of the verb alone; None is not passed on.

        Raises:
            ConfigError: If the function does not take an option that was given.
        """
        from mechinterp.core import ConfigError, in_words

        keywords = {name: value for name, value in self.options.items() if name not in self.drawn}
        accepted = inspect.signature(function).parameters
        foreign = [f"no --{dashed(name)}" for name in keywords if name not in accepted]
        if foreign:
            raise ConfigError(f"{what} take {in_words(foreign, 'and')}")
        keywords |= {name: value for name, value in settings.items() if value is not None}
        if "progress" in accepted:
            return function(*nouns, **keywords, progress=True)
        with waiting(f"measuring {what}"):
            return function(*nouns, **keywords)


def as_command(verb: str, function: Callable[..., CommandOutput]) -> Callable[..., int]:
    """A verb's function as the parser takes it, which prints and returns the exit status.

    It has `--json`. In place of a parameter `chosen` it has the argument RUN, `--step` where the verb reads one
    checkpoint, and the verb's shared options.
    """
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())
    shared = load_options()[verb] if "chosen" in signature.parameters else []
    keyword = inspect.Parameter.KEYWORD_ONLY
    if "chosen" in signature.parameters:
        run = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=RunFolder)
        own = [run, *(item for item in own if item.name != "chosen")]
        if VERB_OPTIONS[verb].step:
            own.append(inspect.Parameter("step", keyword, default=None, annotation=Step))

    @wraps(function)
    def command(*, as_json: bool, own_task: str = "", **words: object) -> int:
        if own_task:
            from mechinterp.tasks import from_file

            from_file(own_task)
        if "chosen" in signature.parameters:
            values = {row["name"]: words.pop(row["name"]) for row in shared}
            options = {name: value for name, value in values.items() if value is not None}
            step = words.pop("step", None)
            words["chosen"] = Chosen(verb, str(words.pop("run")), step if isinstance(step, int) else None, options)
        output = function(**words)
        output.print(as_json)
        return output.status

    if verb in TAKES_OWN_TASK:
        own.append(inspect.Parameter("own_task", keyword, default="", annotation=OwnTask))
    json = inspect.Parameter("as_json", keyword, default=False, annotation=Json)
    parameters = [*own, *map(_parameter, shared), json]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameter(row: SettingRow) -> inspect.Parameter:
    """A shared option as a parameter."""
    metavar = f"[{'|'.join(row['choices'])}]" if "choices" in row else None
    flag = typer.Option(f"--{dashed(row['name'])}", help=about(row), metavar=metavar, show_default=False)
    kind = {"int": int, "float": float}.get(row["kind"], str)
    annotation = Annotated[kind | None, flag]
    return inspect.Parameter(row["name"], inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
