"""SIGTERM, the way in which a cluster stops a job, ends a process as Ctrl-C does: files are left in order."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


class Stopped(KeyboardInterrupt):
    """The process is told to stop by SIGTERM."""


def stop_on_sigterm() -> None:
    """Raise `Stopped` in the main thread at the first SIGTERM, and ignore later ones while files are put in order."""
    signal.signal(signal.SIGTERM, _stop)


def told_to_stop() -> bool:
    """Whether a SIGTERM has come since `stop_on_sigterm`."""
    return signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def exit_at_once(status: int) -> NoReturn:
    """Leave without the seconds that libraries take to clean up; files must be in order."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Stopped
