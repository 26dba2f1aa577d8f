"""A study in its folder: `study/*.nc` for the parts, and `study.json`, written last, for the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from pydantic import Field

from mechinterp._version import __version__
from mechinterp.core import RunError, Settings, checked, read_table
from mechinterp.core.digest import digest
from mechinterp.studies.part import Finding
from mechinterp.timeline import Traceable
from mechinterp.timeline.store import architecture, pack, unpack
from mechinterp.training.files import locked, make_folder, write_atomic

_LAYOUT = 5
"""Raised when the form of these files changes."""
_AGAIN = "nothing is lost, run mechinterp.studies.study again"


class StudyFile(Settings):
    """What `study.json` holds.

    Args:
        layout: Of these files.
        version: Of the package.
        weights: Digest of all weights, the task and the version: what the study is about.
        declaration: SHA-256 of the file that declared the study before it ran; empty for one that none declared.
        files: Part -> digest of its file.
        verdict: As in `Study`.
        findings: As in `Study`.
        settings: As in `Study`.
        record: As in `Study`.
    """

    layout: int
    version: str
    weights: str
    files: dict[str, str]
    verdict: str
    findings: list[Finding]
    settings: dict[str, object]
    record: dict[str, object] = Field(default_factory=dict)
    declaration: str = ""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a study into a folder.

    Raises:
        RunError: If one does, or the system cannot write.
    """
    make_folder(folder / "study")
    with locked(folder / "study"):
        yield


def save_study(
    folder: Path,
    subject: str,
    verdict: str,
    findings: Sequence[Finding],
    parts: Mapping[str, xr.Dataset],
    settings: Mapping[str, object],
    record: Mapping[str, object],
    declaration: str = "",
) -> None:
    """Write a study.

    Args:
        folder: Of the Run, or of the Runs.
        subject: What it is about, as `subject_of` says it.
        verdict: As in `Study`.
        findings: As in `Study`.
        parts: As in `Study`.
        settings: As in `Study`.
        record: As in `Study`.
        declaration: SHA-256 of the file that declared it.

    Raises:
        RunError: If the system cannot write.
    """
    make_folder(folder / "study")
    files = {}
    for name, part in parts.items():
        data = pack(part)
        write_atomic(folder / "study" / f"{name}.nc", data)
        files[name] = hashlib.sha256(data).hexdigest()
    plain = {"layout": _LAYOUT, "version": __version__, "weights": subject, "files": files}
    plain |= {"declaration": declaration} if declaration else {}
    plain |= {"verdict": verdict, "findings": list(findings), "settings": settings, "record": record}
    # Last of all: an interrupted study has no study.json, or an old one whose digests no longer fit.
    write_atomic(folder / "study.json", (json.dumps(plain, indent=1) + "\n").encode())


def load_study(folder: Path, subject: str) -> tuple[StudyFile, dict[str, xr.Dataset]]:
    """A stored study, and its parts by name.

    Args:
        folder: Of the Run, or of the Runs.
        subject: What it is to be about.

    Raises:
        RunError: If there is none, or one of other weights or another version, or a damaged one.
    """
    path = folder / "study.json"
    if not path.exists():
        raise RunError(f"{folder} holds no study yet: run mechinterp.studies.study on it")
    try:
        data = read_table(path, "json")
    except RunError as error:
        raise RunError(f"{path} is damaged; {_AGAIN}") from error
    if data.get("layout") != _LAYOUT:
        raise RunError(f"{path} is from an older or newer version and cannot be read by {__version__}: {_AGAIN}")
    file = checked(data, StudyFile, f"{path} is damaged; {_AGAIN}")
    if file.weights != subject:
        raise RunError(f"{path} is about other weights, another task or another version: {_AGAIN}")
    return file, {name: _part(folder / "study" / f"{name}.nc", expected) for name, expected in file.files.items()}


def _part(path: Path, expected: str) -> xr.Dataset:
    data = path.read_bytes() if path.exists() else b""
    part = unpack(data) if hashlib.sha256(data).hexdigest() == expected else None
    if part is None:
        raise RunError(f"{path} is damaged or missing; {_AGAIN}")
    return part


def subject_of(run: Traceable) -> str:
    """Digest of all weights of a Run, its task and the version."""
    return digest([[run.weights_hash(step) for step in run.steps], architecture(run), run.task.to_dict(), __version__])
