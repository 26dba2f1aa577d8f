"""The one place where files of a Run are changed: whole or not at all, and on the disk before the next is begun.

Everything goes through functions of `os`, so that a test can put a failing `os` here and cut the power anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mechinterp.core import RunError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; there, two writers are not told apart.
    fcntl = None


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file: a reader, and a reboot, find the old content or the new, never a part.

    Raises:
        RunError: If the system cannot write; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _explained(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
        _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, which may stay torn if the process dies here."""
    with _explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write_all(handle, data)
        finally:
            os.close(handle)


def settle(path: Path) -> None:
    """Have everything appended so far on the disk; its name is there with the next `write_atomic` into its folder."""
    with _explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cut(path: Path, size: int) -> None:
    """Drop what lies beyond `size` bytes."""
    if path.exists() and path.stat().st_size > size:
        with _explained(path):
            os.truncate(path, size)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, if they are missing."""
    with _explained(path):
        if not path.is_dir():
            os.makedirs(path, exist_ok=True)
            _sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether a file is what a writer that died left behind; it is overwritten by the next one."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def locked(folder: Path, patient: bool = False) -> Iterator[None]:
    """Keep other processes from writing to this folder; the lock ends with the process, however it ends.

    Args:
        folder: The folder.
        patient: Whether to wait while another process holds it.

    Raises:
        RunError: If another process holds it, and is not waited for.
    """
    if fcntl is None:
        yield
        return
    with _explained(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        except OSError as error:
            text = f"{folder}: another process is writing to this Run; wait for it or choose another folder"
            raise RunError(text) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    """A rename or a new name is on the disk only once its folder is."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
