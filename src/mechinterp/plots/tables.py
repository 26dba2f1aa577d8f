"""The findings as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mechinterp.plots.style import FAINT, GRID, INK, MUTED, PAPER, base

COLUMNS = ("finding", "value", "95% interval", "without a finding")


def findings_table(findings: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Numbers with their intervals and nulls, one finding a row.

    Args:
        findings: Rows with `name` and `value` and, where there are any, `low` and `high` (its interval), `null` (what
            no finding would give: a number, a pair of numbers, or words) and `unit`.
    """
    rows = [finding_cells(finding) for finding in findings]
    figure = base(height=56 + 34 * max(len(rows), 1), margin={"l": 4, "r": 4, "t": 8, "b": 8})
    columns = [[row[i] for row in rows] for i in range(len(COLUMNS))]
    figure.add_table(
        columnwidth=[3, 1.4, 1.6, 2],
        header={
            "values": [f"<b>{name}</b>" for name in COLUMNS],
            "align": "left",
            "fill": {"color": GRID},
            "line": {"color": FAINT},
            "font": {"color": INK},
            "height": 32,
        },
        cells={
            "values": columns,
            "align": "left",
            "fill": {"color": PAPER},
            "line": {"color": GRID},
            "font": {"color": [INK, INK, MUTED, MUTED]},
            "height": 32,
        },
    )
    return figure


def finding_cells(finding: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """One finding as words: name, value with unit, interval, null.

    >>> finding_cells({"name": "faithfulness", "value": 0.912, "low": 0.88, "high": 0.94, "null": 0.02, "unit": "%"})
    ('faithfulness', '91.2%', '88% to 94%', '2%')
    >>> finding_cells({"name": "circuit size", "value": 17, "unit": "edges", "null": "of 68 live edges"})
    ('circuit size', '17 edges', '', 'of 68 live edges')
    >>> finding_cells({"name": "loss", "value": 0.5, "low": 0.4, "high": 0.6, "unit": "nats"})[1:3]
    ('0.500 nats', '0.400 to 0.600 nats')
    """
    unit = str(finding.get("unit") or "")
    low, high = finding.get("low"), finding.get("high")
    spoken = ""
    if low is not None and high is not None and np.isfinite(low) and np.isfinite(high):
        spoken = _span((low, high), unit)
    null = finding.get("null")
    if isinstance(null, tuple | list):
        null = _span(null, unit)
    return (
        str(finding["name"]),
        in_words(finding.get("value"), unit),
        spoken,
        in_words(null, unit) if null is not None else "",
    )


def _span(ends: Sequence[float | None], unit: str) -> str:
    """Both ends of an interval, with the unit once."""
    return f"{in_words(ends[0], unit if unit == '%' else '')} to {in_words(ends[1], unit)}"


def in_words(value: float | str | None, unit: str = "") -> str:
    """A number as a reader wants it: three digits, `%` from a share, thousands parted; words stay.

    >>> in_words(0.00341, "nats"), in_words(12345, "steps"), in_words(0.9995), in_words(float("nan")), in_words("L0.H2")
    ('0.00341 nats', '12,345 steps', '1.00', 'not available', 'L0.H2')
    """
    if value is None or isinstance(value, str | bool):
        return "not available" if value is None else str(value)
    number = float(value)
    if not np.isfinite(number):
        return "not available"
    number = 100 * number if unit == "%" else number
    whole = number == round(number) or abs(number) >= 1000
    text = f"{number:,.0f}" if whole else f"{number:#.3g}".removesuffix(".")
    return text + "%" if unit == "%" else f"{text} {unit}".strip()
