"""`metrics.jsonl`: the lines of the file, written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from torch import Tensor

from mechinterp._version import __version__
from mechinterp.core import RunError, parse

Line = dict[str, int | float | None]
"""`step`, and each metric that was logged there; None where it was not finite."""


def format_line(step: int, values: Mapping[str, float | Tensor]) -> bytes:
    """One line; JSON has no NaN or infinity, so both are written as null."""
    numbers = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()}
    finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return (json.dumps({"step": step, **finite}) + "\n").encode()


def parse_lines(data: bytes, path: Path) -> list[Line]:
    """All lines.

    Raises:
        RunError: If one of them is damaged.
    """
    return [_parse_line(text, f"{path} in line {number}") for number, text in enumerate(data.splitlines(), 1)]


def as_dataset(lines: list[Line]) -> xr.Dataset:
    """One variable per metric, NaN where it was not logged or not finite; dimension `step`."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    values = {name: ("step", np.array([line.get(name) for line in lines], dtype=float)) for name in names}
    return xr.Dataset(values, {"step": [line["step"] for line in lines]}, attrs={"version": __version__})


def _parse_line(text: bytes, where: str) -> Line:
    line = parse(text, "json", where)
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        raise RunError(f"{where} is damaged: no step")
    for name, value in line.items():
        if value is not None and (type(value) not in (int, float) or abs(value) >= 2**63):
            raise RunError(f"{where} is damaged: {name} is no number")
    return line
