"""Checkpoints that another program wrote, read by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from typing_extensions import Protocol

from mechinterp.core import RunError
from mechinterp.core.digest import code_digest, digest
from mechinterp.training.hashes import FileHashes


class Foreign(Protocol):
    """Checkpoints that are not in a Run's folder."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps, ascending."""
        ...

    def model(self, step: int) -> nn.Module:
        """A new model with the weights of a step."""
        ...

    def weights_hash(self, step: int) -> str:
        """What names the weights of a step; no model is made for it."""
        ...


@dataclass(frozen=True, eq=False)
class LoadedCheckpoints:
    """Files or folders by step, and a function that makes a model from one.

    Args:
        paths: Step -> file or folder, ascending.
        loader: Makes the model.
        hashes: Of the files.

    Raises:
        RunError: If there are none, or one does not exist.
    """

    paths: Mapping[int, Path]
    loader: Callable[[Path], nn.Module]
    hashes: FileHashes

    def __post_init__(self) -> None:
        if not self.paths:
            raise RunError("no checkpoints were given")
        missing = [path for path in self.paths.values() if not path.exists()]
        if missing:
            raise RunError(f"{missing[0]} does not exist")

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps, ascending."""
        return tuple(self.paths)

    def model(self, step: int) -> nn.Module:
        """What the loader returns for a step's file."""
        with torch.no_grad():
            return self.loader(self.paths[step])

    def weights_hash(self, step: int) -> str:
        """Hash of the step's files and of the loader's code: the same bytes, read in the same way."""
        path = self.paths[step]
        inside = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
        files = {str(item.relative_to(path)): item for item in inside}
        return digest([self.hashes.of(step, files), code_digest(self.loader)], 64)
