"""`mechinterp list`: what the package knows by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mechinterp.cli.flags import is_file
from mechinterp.cli.output import CommandOutput, waiting

Listed = dict[str, str | int]
_KINDS = ("tasks", "measures", "circuits", "claims", "metrics", "ground-truth")


def list_kind(
    kind: Annotated[str, typer.Argument(metavar="|".join(_KINDS), help="What to list.", show_default=False)],
    check: Annotated[
        str,
        typer.Option("--check", help="With tasks: check that this one keeps its contract, and show what it offers."),
    ] = "",
) -> CommandOutput:
    """List tasks, measures, circuits, claims, metrics, or models with a known circuit."""
    from mechinterp.core import ConfigError, suggest

    if check:
        if kind != "tasks":
            raise ConfigError("--check goes with tasks: mechinterp list tasks --check NAME")
        return _checked(check)

    if kind not in _KINDS:
        raise ConfigError(f"nothing called '{kind}' to list.{suggest(kind, _KINDS)}")
    listings = (_tasks, _measures, _circuits, _claims, _metrics, _ground_truth)
    with waiting(f"listing {kind}"):
        rows = dict(zip(_KINDS, listings, strict=True))[kind]()
    return CommandOutput({kind: rows}, kind.capitalize(), rows)


def _tasks() -> list[Listed]:
    from mechinterp import tasks

    return [{"name": name, "about": _about(tasks.task_class(name))} for name in tasks.names()]


def _checked(name: str) -> CommandOutput:
    from dataclasses import asdict

    from mechinterp import tasks

    kind = tasks.from_file(name) if is_file(name) else tasks.task_class(name)
    with waiting(f"checking {kind.name}"):
        offer = asdict(tasks.check(kind()))
    rows = [
        {"part": part, "offers": ", ".join(value) if isinstance(value, tuple) else str(value).lower()}
        for part, value in offer.items()
    ]
    return CommandOutput({"task": kind.name, **offer}, f"Task {kind.name} keeps its contract", rows)


def _measures() -> list[Listed]:
    from mechinterp import measures
    from mechinterp.measures.registry import function_of

    functions = {name: function_of(name) for name in measures.names()}
    return [{"name": name, "parameters": _parameters(one), "about": _about(one)} for name, one in functions.items()]


def _circuits() -> list[Listed]:
    from mechinterp.claims import circuit_names, load_circuit

    circuits = [load_circuit(name) for name in circuit_names()]
    return [
        {"name": one.name, "edges": len(one.circuit), "claims": len(one.claims), "about": one.about} for one in circuits
    ]


def _claims() -> list[Listed]:
    from mechinterp.claims import circuit_names, load_circuit

    return [
        {
            "circuit": name,
            "claim": claim.id,
            "says": claim.sentence,
            "tolerance": claim.tolerance,
            "source": claim.source,
        }
        for name in circuit_names()
        for claim in load_circuit(name).claims
    ]


def _metrics() -> list[Listed]:
    from mechinterp.core import METRICS

    return [{"name": name, "about": _about(metric)} for name, metric in sorted(METRICS.items())]


def _ground_truth() -> list[Listed]:
    from mechinterp.known import known_models

    models = [(name, one.about, one.build()) for name, one in known_models().items()]
    return [
        {
            "name": name,
            "edges": len(one.circuit),
            "seen noising": len(one.seen()),
            "seen denoising": len(one.seen(direction="denoise")),
            "seen with zeros": len(one.seen("zero")),
            "about": about,
        }
        for name, about, one in models
    ]


def _about(thing: object) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]


def _parameters(function: Callable[..., object]) -> str:
    """What a measure takes beyond model, task and seed."""
    import inspect

    return ", ".join(str(item).split(":")[0] for item in list(inspect.signature(function).parameters.values())[3:])
