"""A study in its Run's folder: `study/*.nc` for the parts, and `study.json`, written last, for the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import RunError
from mechinterp.core.digest import digest
from mechinterp.timeline.store import architecture, pack, unpack
from mechinterp.training.files import make_folder, write_atomic

_LAYOUT = 2
"""Raised when the form of these files changes."""


def run_key(run: Any, settings: dict[str, Any] | None = None) -> str:
    """What a study belongs to: all weights, the task, the version and the settings.

    Args:
        run: The Run.
        settings: Of a study; without them, the key of the stored study, if it is about the present weights, else "".
    """
    if settings is None:
        try:
            return _read(run)["key"]
        except RunError:
            return ""
    return digest([_weights(run), settings])


def save_study(
    run: Any,
    verdict: str,
    findings: Sequence[Mapping[str, Any]],
    parts: Mapping[str, xr.Dataset],
    settings: dict[str, Any],
) -> None:
    """Write a study.

    Raises:
        RunError: If the system cannot write.
    """
    folder = Path(run.path) / "study"
    make_folder(folder)
    files = {}
    for name, part in parts.items():
        data = pack(part)
        write_atomic(folder / f"{name}.nc", data)
        files[name] = hashlib.sha256(data).hexdigest()
    plain = {"verdict": verdict, "findings": list(findings), "settings": settings, "files": files, "layout": _LAYOUT}
    plain |= {"version": __version__, "weights": _weights(run), "key": run_key(run, settings)}
    # Last of all: an interrupted study has no study.json, or an old one whose digests no longer fit.
    write_atomic(Path(run.path) / "study.json", (json.dumps(plain, indent=1) + "\n").encode())


def load_study(run: Any) -> dict[str, Any]:
    """A study's verdict, findings, parts and settings.

    Raises:
        RunError: If there is none, or one of other weights or another version, or a damaged one.
    """
    plain = _read(run)
    return {name: plain[name] for name in ("verdict", "findings", "parts", "settings")}


def _read(run: Any) -> dict[str, Any]:
    """`study.json`, checked, with all `parts`."""
    path = Path(run.path) / "study.json"
    again = "run mechinterp.studies.study on it"
    try:
        plain = json.loads(path.read_bytes())
        if plain.get("layout") != _LAYOUT:
            raise RunError(f"{path} is from an older or newer version and cannot be read by {__version__}: {again}")
        files, weights = plain["files"], plain["weights"]
    except FileNotFoundError:
        raise RunError(f"{run.path} holds no study yet: {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged; nothing is lost, {again}") from error
    if weights != _weights(run):
        raise RunError(f"{path} is about other weights, another task or another version: {again}")
    return plain | {"parts": {name: _part(run, name, expected) for name, expected in files.items()}}


def _part(run: Any, name: str, expected: str) -> xr.Dataset:
    path = Path(run.path) / "study" / f"{name}.nc"
    data = path.read_bytes() if path.exists() else b""
    part = unpack(data) if hashlib.sha256(data).hexdigest() == expected else None
    if part is None:
        raise RunError(f"{path} is damaged or missing; nothing is lost, run mechinterp.studies.study again")
    return part


def _weights(run: Any) -> str:
    task = run.task.to_dict() if hasattr(run.task, "to_dict") else repr(run.task)
    return digest([[run.weights_hash(step) for step in run.steps], architecture(run), task, __version__])
