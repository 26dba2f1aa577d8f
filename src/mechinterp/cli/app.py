"""`mechinterp VERB ...`: finds the verb, and turns its outcome into an exit status.

0 is done, 1 a claim or check that failed, 2 bad input (one line on the error stream, no traceback), 3 something that
could not be decided, 130 an interrupt, 143 SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn, no_type_check

import typer
from typer.exceptions import TyperException

from mechinterp._signals import Stopped, exit_at_once, stop_on_sigterm, told_to_stop
from mechinterp.cli.flags import SettingsCommand
from mechinterp.cli.options import as_command

VERBS = {
    "demo": "demo.demo",
    "train": "train.train",
    "trace": "trace.trace",
    "patch": "effects.patch",
    "estimate": "effects.estimate",
    "discover": "circuits.discover",
    "evaluate": "circuits.evaluate",
    "probe": "probe.probe",
    "study": "study.study",
    "twins": "twins.twins",
    "verify": "verify.verify",
    "report": "study.report",
    "bench": "bench.bench",
    "list": "listing.list_kind",
}
"""Verb -> module of this room and its function. Only the verb of the command line is imported, and what a module needs
of torch and the like only when its command runs: help answers at once."""


def main() -> NoReturn:
    """The console script: run the words of the command line and exit."""
    # Small models gain nothing from a second thread, and on a busy machine threads that wait for each other take
    # several times as long. Training sets its own number; a value that the user sets stays.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    stop_on_sigterm()
    status = run(sys.argv[1:])
    if status in (130, 143):
        exit_at_once(status)
    sys.exit(status)


def run(words: Sequence[str]) -> int:
    """Run one command line.

    Args:
        words: What stands behind `mechinterp`.

    Returns:
        The exit status.
    """
    try:
        return _invoke(list(words))
    except KeyboardInterrupt as interrupt:
        return _interrupted(isinstance(interrupt, Stopped))
    except Exception as error:
        if not _expected(error):
            raise
        print(f"mechinterp: {_one_line(error)}", file=sys.stderr)
        return 2


def _invoke(words: list[str]) -> int:
    status = commands(words)(words, prog_name="mechinterp", standalone_mode=False)
    if status == 130:  # what the parser makes of KeyboardInterrupt
        return _interrupted(told_to_stop())
    return status if isinstance(status, int) else 0


def commands(words: Sequence[str] = ()) -> typer.Typer:
    """The parser, with the command that a command line names, or with all of them."""
    app = typer.Typer(
        help="Train small transformers, find their circuits by causal intervention, and date when each formed.",
        add_completion=False,
        rich_markup_mode=None,  # plain help: importing the painter would take as long as all else together
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_top)
    verb = next((word for word in words if not word.startswith("-")), None)
    for name in [verb] if verb in VERBS else VERBS:
        module, function = VERBS[name].split(".")
        command = getattr(importlib.import_module(f"mechinterp.cli.{module}"), function)
        app.command(name, cls=SettingsCommand if name == "train" else None)(as_command(name, command))
    return app


@no_type_check  # the parser hands over a context of its own, unexported class
def _top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from mechinterp import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _interrupted(stopped: bool) -> int:
    how = "stopped by SIGTERM" if stopped else "interrupted"
    print(f"mechinterp: {how}; finished parts are kept (train --resume and trace go on from there)", file=sys.stderr)
    return 143 if stopped else 130


def _expected(error: Exception) -> bool:
    """Whether an error is about what the user gave, and its text is meant for them."""
    if isinstance(error, TyperException):
        return True
    core = sys.modules.get("mechinterp.core.errors")  # not imported: then no error can be one of this package
    return core is not None and isinstance(error, core.MechinterpError)


def _one_line(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
    return " ".join(text.split())
