"""`assert_claim`: a claim as one line of a test, with a failure that says what to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mechinterp.claims.schema import VERDICTS, Claim, Quantity
from mechinterp.claims.shipped import LoadedCircuit, as_subject, load_circuit
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import ORDER_SEEDS
from mechinterp.claims.verify import ClaimResult, check_claim
from mechinterp.core import ConfigError, suggest
from mechinterp.models import Transformer
from mechinterp.tasks import Task


class ClaimError(AssertionError):
    """A claim that does not hold; its text says which, what was expected and measured, and where to look."""


def assert_claim(
    claim: Claim | str,
    on: object = None,
    task: Task | None = None,
    circuit: LoadedCircuit | str | None = None,
) -> ClaimResult:
    """Fail unless a claim comes out as stated.

    Args:
        claim: A claim that the caller makes; or one of a circuit, by its id or as `"induction/induction-head"`.
        on: The model to check: a Run, a Transformer, or a mapping from the claim's names of models to these; or a
            list of such, one per seed. For a claim of a circuit, a model that is left out is the shipped one.
        task: The task to measure on, for a bare Transformer and a claim that the caller makes.
        circuit: The circuit that makes the claim, for an id without its name; a name, a folder or an opened circuit.

    Returns:
        The result.

    Raises:
        ClaimError: If the claim fails, or the models cannot decide it (an order in time needs five).
        ConfigError: If there is no such claim or model, or nothing to check it on.

    >>> assert_claim("induction/learns-repeats").verdict
    'reproduced'
    """
    owner, own_claim = _find(claim, circuit)
    if on is None and "shipped" not in own_claim.on:
        raise ConfigError(f"claim '{own_claim.id}' is about training: pass the Runs of retrained models with on=")
    groups = [_group(own_claim, owner, one, task) for one in (on if isinstance(on, list | tuple) else [on])]
    if not groups:
        raise ConfigError("an empty list: pass at least one model")
    result = check_claim(own_claim, groups, owner.name if owner else "")
    undecided = result.verdict == VERDICTS[-1] and own_claim.not_testable is None
    if result.failed or undecided:
        raise ClaimError(_failure(own_claim, result, owner))
    return result


def _find(claim: Claim | str, circuit: LoadedCircuit | str | None) -> tuple[LoadedCircuit | None, Claim]:
    if isinstance(claim, str) and circuit is None:
        circuit, _, claim = claim.rpartition("/")
        if not circuit:
            raise ConfigError(f"whose claim is '{claim}'? Write 'induction/{claim}', or give circuit=")
    owner = load_circuit(circuit) if isinstance(circuit, str) else circuit
    if isinstance(claim, Claim):
        return owner, claim
    known = {one.id: one for one in owner.claims} if owner else {}
    if claim not in known:
        raise ConfigError(f"circuit '{owner.name if owner else ''}' claims no '{claim}'.{suggest(claim, known)}")
    return owner, known[claim]


def _group(claim: Claim, owner: LoadedCircuit | None, models: object, task: Task | None) -> dict[str, Subject]:
    """Name of a model -> the model that is checked."""
    shipped = dict(owner.models) if owner else {}
    named = models if isinstance(models, Mapping) else {} if models is None else {claim.model: models}
    unknown = sorted(set(named) - set(shipped) - claim.models)
    if unknown:
        raise ConfigError(f"no model '{unknown[0]}' in this claim.{suggest(unknown[0], [*shipped, *claim.models])}")
    for name, model in named.items():
        if name in shipped:
            shipped[name] = as_subject(model, shipped[name])
        elif isinstance(model, Transformer):
            if task is None:
                raise ConfigError("a bare Transformer does not say what it was trained on: pass task=, or its Run")
            shipped[name] = Subject(task, 0, model.config, model)
        else:
            shipped[name] = as_subject(model)
    missing = claim.models - set(shipped)
    if missing:
        raise ConfigError(f"claim '{claim.id}' is about '{min(missing)}': pass it with on=")
    return shipped


def _failure(claim: Claim, result: ClaimResult, owner: LoadedCircuit | None) -> str:
    """The failure as text, one fact a line."""
    name = f"{result.circuit}/{claim.id}" if result.circuit else claim.id
    many = len(result.seeds) > 1
    ends = "over seeds" if many else "over examples"
    seeds = f"seed{'s' if many else ''} {', '.join(map(str, result.seeds))}"
    few = ""
    if claim.compare == "after":
        few = f" with {len(result.seeds)} of the {ORDER_SEEDS} models that an order needs"
        few = few if len(result.seeds) < ORDER_SEEDS else ": some models were not watched for long enough"
    lines = [
        f"{name}: {result.verdict}{few if result.verdict == VERDICTS[-1] else ''}",
        f"claim     {claim.sentence}",
        f"source    {claim.source}" + ("" if claim.published is None else f" (published: {claim.published:g})"),
        f"expected  {claim.tolerance}",
        f"measured  {result.measured:.4g} [{result.low:.4g}, {result.high:.4g}], 95% {ends}; {seeds}",
        f"look at   {_place(claim.quantity)}",
    ]
    if result.reason:
        missing = result.measured is None or math.isnan(result.measured)
        lines.append(f"{'no number: ' if missing else 'reason    '}{result.reason}")
    if claim.other is not None:
        lines.append(f"{'over' if claim.relative else 'minus':10s}{_place(claim.other)}")
    if owner is not None:
        lines.append(f"evidence  {owner.path / 'README.md'}")
    return "\n  ".join(lines)


def _place(quantity: Quantity) -> str:
    """Which number this is."""
    params = "".join(f", {name}={value!r}" for name, value in quantity.params.items())
    text = f'mi.measure("{quantity.measure}"{params}) of {quantity.model}'
    text += "" if quantity.step == "final" else f" at step {quantity.step}"
    text += f", task with {quantity.task}" if quantity.task else ""
    select = quantity.select
    text += f", {select.where}" if select.where else ""
    text += f", head type: {select.head_type}" if select.head_type else ""
    text += "" if select.reduce == "only" else f", {select.reduce}"
    return text + (", first passage" if quantity.passage else "")
