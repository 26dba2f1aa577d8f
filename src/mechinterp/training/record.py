"""`run.json`: what a Run is, checked when it is read."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from mechinterp._version import __version__
from mechinterp.core import RunError, Settings, checked, read_table
from mechinterp.models import ModelConfig
from mechinterp.training.config import TrainConfig
from mechinterp.training.files import write_atomic
from mechinterp.training.hub import HubSource
from mechinterp.training.interventions import AnyIntervention, Resolution

FORMAT = 1
NAME = "run.json"


class RunRecord(Settings):
    """What a Run was made of.

    Args:
        task: Name and settings; plain data, since the class of the task may not be known here.
        model: Architecture; None for a model that is not our Transformer.
        training: Settings of our loop; None for another loop.
        source: Where the checkpoints lie, if they are not in the folder.
        settings: Whatever another loop wants to remember.
        interventions: What was changed in training, in order; none in a plain training.
        resolutions: Number of an intervention (from 0) -> what it turned out to be when it began.
        keep: Checkpoints whose weights were to stay, beside the last; None for all.
        seed: Seed of weights and data.
        threads: Torch's threads.
        device: Where it was trained.
        versions: Of what decides bit-identity, and of Python.
        status: `running` (also: killed), `interrupted` (by an exception), `diverged` (no finite loss) or `finished`.
    """

    format: int = FORMAT
    task: dict[str, object] | None = None
    model: ModelConfig | None = None
    training: TrainConfig | None = None
    source: HubSource | None = None
    settings: dict[str, object] = Field(default_factory=dict)
    interventions: tuple[AnyIntervention, ...] = ()
    resolutions: dict[int, Resolution] = Field(default_factory=dict)
    keep: tuple[int, ...] | None = None
    seed: int | None = None
    threads: int = 1
    device: str = "cpu"
    versions: dict[str, str] = Field(default_factory=dict)
    status: Literal["running", "interrupted", "diverged", "finished"] = "running"


def current_versions() -> dict[str, str]:
    """Versions of this process; `platform` has the instruction set that torch uses."""
    kind = f"{platform.system()}-{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}"
    return {
        "mechinterp": __version__,
        "torch": torch.__version__,
        "platform": kind,
        "python": platform.python_version(),
    }


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json`; what a plain training has not is left out."""
    data = record.model_dump(mode="json")
    optional = {"interventions": [], "resolutions": {}, "keep": None}
    plain = {name: value for name, value in data.items() if name not in optional or value != optional[name]}
    write_atomic(folder / NAME, (json.dumps(plain, indent=2) + "\n").encode())


def read_record(folder: Path) -> RunRecord:
    """Read and check `run.json`.

    Raises:
        RunError: If there is none, or it is damaged, foreign or of another format.
    """
    path = folder / NAME
    if not path.is_file():
        what = "is no Run: it has no run.json" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {what}")
    data = read_table(path, "json")
    if type(data.get("format")) is not int:
        raise RunError(f"{path} was not written by mechinterp: it states no format")
    if data["format"] != FORMAT:
        raise RunError(f"{path} has format {data['format']}, this version reads format {FORMAT}")
    versions = data.get("versions")
    writer = versions.get("mechinterp", "?") if isinstance(versions, dict) else "?"
    return checked(data, RunRecord, f"{path} (written by mechinterp {writer}) does not fit this version")


def differences(old: RunRecord, new: RunRecord) -> list[str]:
    """Where a Run that shall be continued differs from what is wanted now; the status and Python may."""
    before, now = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        f"{name} is {before.get(name)!r} in the folder and {now.get(name)!r} now"
        for name in names
        if name not in ("status", "versions.python") and name.partition(".")[0] != "resolutions"
    ]


def _flat(data: object, prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    return {
        name: leaf
        for key, value in data.items()
        for name, leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
