"""Tensors on disk: safetensors files that know what they are and notice damage; an optimiser as plain tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mechinterp.core import ConfigError, RunError, Settings, parse
from mechinterp.training.files import write_atomic

_KEY = "mechinterp"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors with a description and their hash; equal content gives equal bytes.

    Args:
        path: Where to.
        tensors: On any device; copies are written.
        about: Plain data.
    """
    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    # One metadata key only: safetensors does not keep several in order, and equal runs shall write equal files.
    note = json.dumps({**about, "sha256": tensor_hash(own)}, sort_keys=True)
    write_atomic(path, safetensors.torch.save(own, {_KEY: note}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and their description.

    Raises:
        RunError: If the file is missing, cut short, foreign or changed since it was written.
    """
    tensors, about = _read(path, True)
    if about["sha256"] != tensor_hash(tensors):
        raise RunError(f"{path} is damaged: its content does not fit its hash")
    return tensors, about


def read_note(path: Path) -> dict[str, object]:
    """The description alone.

    Raises:
        RunError: If the file is missing, cut short or foreign.
    """
    return _read(path, False)[1]


def _read(path: Path, whole: bool) -> tuple[dict[str, Tensor], dict[str, object]]:
    if not path.is_file():
        raise RunError(f"{path} is missing")
    try:
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if whole else {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged or no safetensors file ({error})") from error
    about = parse(note or "null", "json", f"{path}, its description,")
    if not isinstance(about, dict) or "sha256" not in about:
        raise RunError(f"{path} was not written by mechinterp: it lacks our description")
    return tensors, about


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{list(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class OptimizerNote(Settings):
    """What `optimizer_tensors` says beside the tensors."""

    groups: list[dict[str, object]]
    plain: dict[str, object]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """An optimiser's state as tensors named `0.exp_avg`, and its settings as plain data.

    Raises:
        ConfigError: If it keeps anything that is neither a tensor nor plain data.
    """
    state = optimizer.state_dict()
    entries = {f"{index}.{name}": value for index, part in state["state"].items() for name, value in part.items()}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in entries.items() if name not in tensors}
    about: dict[str, object] = {"groups": state["param_groups"], "plain": plain}
    try:
        # Python writes the shortest text that reads back as the same float: nothing is lost on the way.
        json.dumps(about)
    except TypeError as error:
        kind = type(optimizer).__name__
        raise ConfigError(f"the state of {kind} cannot be written as tensors and plain data ({error})") from error
    return tensors, about


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], about: OptimizerNote) -> None:
    """The reverse of `optimizer_tensors`, in place.

    Raises:
        RunError: If the optimiser has other parameters.
    """
    state: dict[int, dict[str, object]] = {}
    try:
        for key, value in {**tensors, **about.plain}.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": about.groups})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"the saved optimiser does not fit this one: {error}") from error
