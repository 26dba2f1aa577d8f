"""A study in its Run's folder: `study/*.nc` for arrays, and `study.json`, written last, for the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import xarray as xr

from mechinterp._version import __version__
from mechinterp.core import Circuit, RunError
from mechinterp.curves.onset import Onset
from mechinterp.timeline.store import pack, unpack
from mechinterp.training.files import make_folder, write_atomic

ARRAYS = ("timeline", "nodes", "curve", "evaluation")


def run_key(run: Any, settings: dict[str, Any] | None = None) -> str:
    """What a study belongs to: all weights, the task and the version, and with given settings these.

    Without settings it is the key of the study on the shelf, for the same weights as now; empty if there is none.
    """
    if settings is None:
        try:
            return _read(run)["key"]
        except RunError:
            return ""
    text = json.dumps([_weights(run), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_study(run: Any, parts: dict[str, Any]) -> None:
    """Write a study's parts.

    Raises:
        RunError: If the system cannot write.
    """
    arrays = {name: parts[name] for name in ARRAYS if parts[name] is not None}
    arrays |= {f"probe-{name}": found for name, found in parts["probes"].items()}
    folder = Path(run.path) / "study"
    make_folder(folder)
    files = {}
    for name, found in arrays.items():
        data = pack(found)
        write_atomic(folder / f"{name}.nc", data)
        files[name] = hashlib.sha256(data).hexdigest()
    plain = {name: value for name, value in parts.items() if name not in (*ARRAYS, "probes")}
    plain["circuit"] = parts["circuit"].to_dict()
    plain["onsets"] = {name: found.to_dict() for name, found in parts["onsets"].items()}
    plain |= {"probes": list(parts["probes"]), "files": files, "version": __version__}
    plain |= {"weights": _weights(run), "key": run_key(run, parts["settings"])}
    # Last of all: a study that was interrupted has no study.json, or an old one whose digests no longer fit.
    write_atomic(Path(run.path) / "study.json", (json.dumps(plain, indent=1) + "\n").encode())


def load_study(run: Any) -> dict[str, Any]:
    """Read a study's parts.

    Raises:
        RunError: If there is none, or one of other weights or another version, or a damaged one.
    """
    plain = _read(run)
    arrays = {name: _array(run, name, digest) for name, digest in plain.pop("files").items()}
    for name in ("version", "weights", "key"):
        plain.pop(name)
    plain["probes"] = {name: arrays.pop(f"probe-{name}") for name in plain["probes"]}
    plain |= {name: arrays.get(name) for name in ARRAYS}
    plain["circuit"] = Circuit.from_dict(plain["circuit"])
    plain["onsets"] = {name: Onset(**found) for name, found in plain["onsets"].items()}
    plain["nulls"] = {name: tuple(ends) for name, ends in plain["nulls"].items()}
    return plain


def _read(run: Any) -> dict[str, Any]:
    path = Path(run.path) / "study.json"
    again = "run mechinterp.studies.study on it"
    try:
        plain = json.loads(path.read_bytes())
        files, weights = plain["files"], plain["weights"]
    except FileNotFoundError:
        raise RunError(f"{run.path} holds no study yet: {again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged; nothing is lost, {again}") from error
    if weights != _weights(run):
        raise RunError(f"{path} is about other weights, another task or another version: {again}")
    for name in files:
        _array(run, name, files[name])
    return plain


def _array(run: Any, name: str, digest: str) -> xr.Dataset:
    path = Path(run.path) / "study" / f"{name}.nc"
    data = path.read_bytes() if path.exists() else b""
    found = unpack(data) if hashlib.sha256(data).hexdigest() == digest else None
    if found is None:
        raise RunError(f"{path} is damaged or missing; nothing is lost, run mechinterp.studies.study again")
    return found


def _weights(run: Any) -> str:
    task = run.task.to_dict() if hasattr(run.task, "to_dict") else repr(run.task)
    text = json.dumps([[run.weights_hash(step) for step in run.steps], task, __version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
