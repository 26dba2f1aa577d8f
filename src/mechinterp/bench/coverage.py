"""Do intervals hold the truth as often as they say: every number of the shipped circuits' claims and findings, redrawn.

Model, heads, circuit and everything else stay; only examples are drawn again. Each measure is taken once on many
examples, whose mean is the truth; then samples of the size that the product takes are drawn from these, and the
product's own rule makes the interval of each. A share of a gap is redrawn in its linear form (`ratio_rows`), which is
exact to first order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mechinterp.claims import LoadedCircuit, Subject, load_circuit
from mechinterp.claims.numbers import measure_of, pick
from mechinterp.claims.schema import Claim, Quantity, Select
from mechinterp.claims.shipped import circuit_names
from mechinterp.core import MechinterpError
from mechinterp.core.statistics import Interval, Kind
from mechinterp.measures import measure
from mechinterp.studies.learning import LOSS_EXAMPLES
from mechinterp.tasks import from_dict

WANTED_COVERAGE, WIDEST, AT_ONCE = 0.93, 1.5, 512
TRUTH = {"removal": 8192, "circuit_faithfulness": 8192, "node_effects": 8192, "edge_effects": 8192}
"""Examples that stand for the truth, by measure; 100,000 for all others."""
_MEANING = (
    "share of 95% intervals that hold the truth, median over quantities that the examples resolve; low and high: the "
    "least and the largest"
)


def coverage(quick: bool = False) -> dict[str, Any]:
    """Coverage and width of the interval of every number in the shipped claims, and of the losses in findings.

    Claims without an interval over examples are left out (weights alone, counts, dates), and so are those that search a
    circuit on their own examples: the claims about the shipped circuit stand for them.

    Args:
        quick: One circuit and few examples, to see that it runs.

    Returns:
        `ratio`, `low`, `high` as `meaning` says. `sizes` has a row per quantity: `size` (circuit and quantity), `n`,
        `coverage`, `width` (median, over the range that holds 95% of the true distribution of the number), `resolved`
        (share of samples), `shape` (whether all is well), and for proportions `failures`: how many of the examples
        behind the truth are not at its bound; below 50 the truth itself is uncertain.
    """
    names = ["regression"] if quick else circuit_names()
    draws, most = (100, 4096) if quick else (1000, 100_000)
    populations: dict[Any, xr.DataArray] = {}
    rows = []
    for name in names:
        circuit = load_circuit(name)
        for label, claim in [*_claims(circuit), *_losses(circuit)]:
            row = _row(claim, circuit, populations, draws, most)
            if row is not None:
                rows.append({"size": f"{name}: {label}", **row})
    told = [row["coverage"] for row in rows if row["resolved"] > 0.5] or [1.0]
    return {
        "name": "coverage",
        "ratio": float(np.median(told)),
        "low": min(told),
        "high": max(told),
        "meaning": _MEANING,
        "target": WANTED_COVERAGE,
        "sizes": rows,
    }


def _claims(circuit: LoadedCircuit) -> Iterator[tuple[str, Claim]]:
    for claim in circuit.claims:
        sides = [claim.quantity, *([] if claim.other is None else [claim.other])]
        searched = any(one.measure == "circuit_quality" for one in sides)
        trained = all(one.step != "untrained" and one.passage is None for one in sides)
        if "shipped" in claim.on and trained and not (claim.not_testable or searched):
            yield claim.id, claim


def _losses(circuit: LoadedCircuit) -> Iterator[tuple[str, Claim]]:
    """What a study of the main model tells of its loss."""
    main = circuit.models[circuit.main]
    for group in main.task.groups(main.task.batch(2)):
        told = {
            "id": "finding",
            "sentence": "",
            "purpose": "mechanism",
            "compare": ">=",
            "value": 0.0,
            "model": circuit.main,
        }
        params = {"examples": LOSS_EXAMPLES}
        yield f"loss on {group}", Claim(**told, measure="loss", params=params, select=Select(where={"group": group}))


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a claim: many examples, of which the product takes `n`; None for a number without examples."""

    quantity: Quantity
    subject: Subject
    table: xr.DataArray
    n: int | None

    @property
    def sizes(self) -> tuple[int, int]:
        return self.table.sizes["example"], self.n or 0

    def number(self, index: np.ndarray | slice) -> Interval:
        table = self.table if self.n is None else self.table.isel(example=index)
        return pick(table, self.quantity.select, self.subject)


def _row(
    claim: Claim, circuit: LoadedCircuit, populations: dict[Any, xr.DataArray], draws: int, most: int
) -> dict[str, Any] | None:
    quantities = [claim.quantity, *([] if claim.other is None else [claim.other])]
    sides = [_side(one, circuit.models[one.model], populations, most) for one in quantities]
    sizes = [side.n for side in sides if side.n is not None]
    if not sizes:
        return None
    try:
        truth = _number(claim, [side.number(slice(None)) for side in sides])
        samples = [_number(claim, one) for one in _samples(sides, draws)]
    except MechinterpError:
        return None
    valid = [one for one in samples if one.valid]
    if not valid or all(one.low == one.high for one in valid):
        return None
    spread = float(np.ptp(np.quantile([one.value for one in valid], [0.025, 0.975])))
    hits = float(np.mean([one.low <= truth.value <= one.high for one in valid]))
    width = float(np.median([one.high - one.low for one in valid])) / spread if spread else float(draws)
    resolved = float(np.mean([one.resolved for one in valid]))
    well = resolved <= 0.5 or (hits >= WANTED_COVERAGE and width <= WIDEST)
    shape = "not resolved" if resolved <= 0.5 else "well" if well else "off"
    row = {
        "n": max(sizes),
        "truth": truth.value,
        "coverage": hits,
        "width": width,
        "resolved": resolved,
        "shape": shape,
    }
    row |= {"shape": shape}
    return row | ({"failures": _failures(sides[0])} if Kind.of(sides[0].table.attrs).name == "proportion" else {})


def _failures(side: _Side) -> int:
    """Examples behind the truth that are not at the proportion's nearer bound."""
    rows = side.number(slice(None)).rows
    if rows is None:
        return 0
    return int((rows != round(float(np.nanmean(rows)))).sum())


def _samples(sides: list[_Side], draws: int) -> Iterator[list[Interval]]:
    """Both sides on the same examples where they have as many, as the product has."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        drawn: dict[tuple[int, int], np.ndarray] = {}
        for side in sides:
            if side.n is not None:
                drawn.setdefault(side.sizes, rng.integers(side.sizes[0], size=side.n))
        yield [side.number(slice(None) if side.n is None else drawn[side.sizes]) for side in sides]


def _number(claim: Claim, numbers: list[Interval]) -> Interval:
    first, *rest = numbers
    if not rest:
        return first
    return first.over(rest[0]) if claim.relative else first.minus(rest[0])


def _side(quantity: Quantity, subject: Subject, populations: dict[Any, xr.DataArray], most: int) -> _Side:
    chosen = measure_of(quantity, subject, "final")
    params = {**chosen.params, "examples": AT_ONCE}
    total = min(TRUTH.get(chosen.name, 100_000), most)
    key = (id(subject), quantity.step, str(quantity.task), chosen.name, str(params))
    if key not in populations:
        step = quantity.step
        model = subject.run.model(step) if isinstance(step, int) and subject.run is not None else subject.final
        task = from_dict({**subject.task.to_dict(), **quantity.task})
        many = measure(chosen.name, **params) if "examples" in chosen.params else chosen
        tables = [many(model, task, 1_000_000)]
        if "example" in tables[0].dims:
            tables += [many(model, task, 1_000_000 + number) for number in range(1, -(-total // AT_ONCE))]
            tables = [xr.concat(tables, "example", join="exact", combine_attrs="override")]
        populations[key] = tables[0]
    table = populations[key]
    return _Side(quantity, subject, table, chosen.params["examples"] if "example" in table.dims else None)
