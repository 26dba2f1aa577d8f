"""What names the weights of checkpoints that another program wrote: hashes of their files, each file read once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mechinterp.core import RunError, Settings, read_settings
from mechinterp.training.files import make_folder, write_atomic

_BLOB = re.compile(r"[0-9a-f]{64}")

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, size, and time of change of content and of entry (in nanoseconds) of every file."""


class _Remembered(Settings):
    """A hash, and the files as they were when it was taken."""

    files: Signature
    sha256: str


@dataclass(frozen=True, eq=False)
class FileHashes:
    """SHA-256 over the files of a step, taken again only if one of them changed.

    Args:
        folder: Of the Run. Hashes are kept in it if it exists, and otherwise as long as this object.
    """

    folder: Path
    _known: dict[int, _Remembered] = field(default_factory=dict, init=False, repr=False)

    def of(self, step: int, files: Mapping[str, Path]) -> str:
        """The hash of a step's files.

        Args:
            step: The step.
            files: By a name that is the same wherever they lie.

        Raises:
            RunError: If a file cannot be read, or is not what its name in the hub's cache says.
        """
        signature = tuple(_signed(path) for _, path in sorted(files.items()))
        known = self._known.get(step) or self._read(step)
        if known is None or known.files != signature:
            hasher = hashlib.sha256()
            for name, path in sorted(files.items()):
                hasher.update(f"{name}|{_file_hash(path)}|".encode())
            known = _Remembered(files=signature, sha256=hasher.hexdigest())
            self._write(step, known)
        self._known[step] = known
        return known.sha256

    def _path(self, step: int) -> Path:
        return self.folder / "hashes" / f"{step:08d}.json"

    def _read(self, step: int) -> _Remembered | None:
        try:
            return read_settings(self._path(step), "json", _Remembered)
        except RunError:  # missing or damaged: the hash is taken again
            return None

    def _write(self, step: int, known: _Remembered) -> None:
        if not self.folder.is_dir():
            return
        try:
            make_folder(self._path(step).parent)
            write_atomic(self._path(step), known.model_dump_json().encode())
        except RunError:  # a folder that cannot be written to: the next process takes the hash again
            return


def _signed(path: Path) -> tuple[str, int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    blob = path.resolve()
    # The hub's cache names large files by their hash.
    if blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name) and blob.name != found:
        raise RunError(f"{path} is damaged: its content does not fit its name in the cache, {blob.name[:12]}...")
    return found
