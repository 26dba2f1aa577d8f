"""Where things lie in a Run folder, and whether they are sound."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mechinterp.core import RunError, read_file
from mechinterp.training.files import is_temporary
from mechinterp.training.metrics_file import Line, parse_lines
from mechinterp.training.record import NAME, read_record
from mechinterp.training.tensors import read_note, read_tensors

_CHECKPOINT = re.compile(r"([0-9]{8,})\.safetensors")


@dataclass(frozen=True)
class Folder:
    """The paths of a Run.

    Args:
        path: Its folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        """All that is needed to go on."""
        return self.path / "state.safetensors"

    @property
    def metrics(self) -> Path:
        """One line of JSON per logged step."""
        return self.path / "metrics.jsonl"

    def checkpoint(self, step: int) -> Path:
        """File of one checkpoint."""
        return self.checkpoints / f"{step:08d}.safetensors"

    def steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending."""
        if not self.checkpoints.is_dir():
            return ()
        matches = (_CHECKPOINT.fullmatch(item.name) for item in self.checkpoints.iterdir())
        steps = sorted(int(match[1]) for match in matches if match and match[0] == self.checkpoint(int(match[1])).name)
        return tuple(step for step in steps if self.checkpoint(step).is_file())

    def check(self, resume: bool) -> bool:
        """Whether the folder holds a Run to continue.

        Raises:
            RunError: If it holds a Run and `resume` is False, or other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, a Run is a folder: choose another path")
        items = [item for item in self.path.iterdir() if not is_temporary(item)] if self.path.exists() else []
        if not items:
            return False
        if not (self.path / NAME).exists():
            raise RunError(f"{self.path} holds other files ({items[0].name}) and no Run: choose an empty folder")
        if not resume:
            status, steps = read_record(self.path).status, self.steps()
            reached = f" at step {steps[-1]}" if steps else ""
            raise RunError(
                f"{self.path} holds a Run ({status}{reached}): continue it with resume, or choose another folder"
            )
        return True

    def has_state(self) -> bool:
        """Whether there is a state to go on from.

        Raises:
            RunError: If there is none, though there should be: it is written right after the first checkpoint.
        """
        if self.state.exists():
            return True
        if len(self.steps()) > 1:
            raise RunError(f"{self.state} is missing, and the Run cannot go on without it; train into another folder")
        return False

    def read_checkpoint(self, step: int) -> dict[str, Tensor]:
        """Weights at a step.

        Raises:
            RunError: If there is no such checkpoint, or it is damaged or of another step.
        """
        path = self.checkpoint(step)
        if not path.is_file():
            raise RunError(f"{self.path} has no checkpoint at step {step}: {nearest(step, self.steps())}")
        tensors, about = read_tensors(path)
        if about.get("step") != step:
            raise RunError(f"{path} is the checkpoint of step {about.get('step')}, not of step {step}")
        return tensors

    def passed(self) -> dict[int, str]:
        """Step -> hash of its weights, of all checkpoints where some kept theirs; empty where all do."""
        passed = read_note(self.state).get("passed") if self.state.exists() else None
        return {int(step): str(weights) for step, weights in passed.items()} if isinstance(passed, dict) else {}

    def last_state(self) -> tuple[int, dict[str, Tensor]]:
        """The step of the last state, and the weights in it.

        Raises:
            RunError: If there is no state, or it is damaged.
        """
        tensors, about = read_tensors(self.state)
        step = about.get("step")
        return step if isinstance(step, int) else -1, part(tensors, "weights")

    def kept(self) -> dict[str, Tensor]:
        """What interventions keep beside the weights, of the last state.

        Raises:
            RunError: If there is no state, or it is damaged.
        """
        tensors, _ = read_tensors(self.state)
        return part(tensors, "interventions")

    def check_metrics(self, size: int) -> None:
        """See that the first `size` bytes of the metrics are whole lines.

        Raises:
            RunError: If they are not.
        """
        data = self._metrics_bytes()
        if len(data) < size or (size and data[size - 1 : size] != b"\n"):
            raise RunError(f"{self.metrics} is damaged: {size} bytes of whole lines should be there")
        parse_lines(data[:size], self.metrics)

    def read_metrics(self) -> list[Line]:
        """Logged lines; a torn last line (of a process that died, or is just writing) is left out.

        Raises:
            RunError: If another line is damaged.
        """
        data = self._metrics_bytes()
        return parse_lines(data[: data.rfind(b"\n") + 1], self.metrics)

    def _metrics_bytes(self) -> bytes:
        return read_file(self.metrics) if self.metrics.exists() else b""


def nearest(step: int, steps: Sequence[int]) -> str:
    """Which steps there are, for the message that one is missing."""
    if not steps:
        return "there is none yet"
    near = min(steps, key=lambda other: abs(other - step))
    return f"there are {len(steps)}, from {steps[0]} to {steps[-1]}; the nearest is {near}"


def part(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors of a state whose names begin with `kind` and a point, without it."""
    return {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}
