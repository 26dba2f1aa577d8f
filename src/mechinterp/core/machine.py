"""What an analysis borrows of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from mechinterp.core.errors import ConfigError

try:
    import resource
except ImportError:  # Windows has no such limits.
    resource = None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes that this process may use: all of the machine, or the limit of its address space."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    pages = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages else 2**63
    return machine if limit < 0 else min(limit, machine)


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that are free for what is allocated next: on a GPU its own, else the machine's."""
    if device is not None and device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return usable_memory()
    return min(available, usable_memory())


def check_memory(needed: int, what: str) -> None:
    """Refuse what this machine cannot hold, before anything is allocated.

    Args:
        needed: Bytes, at least.
        what: Needs them.

    Raises:
        ConfigError: If there are fewer.
    """
    if needed > usable_memory():
        raise ConfigError(f"{what} needs {needed / 1e9:,.1f} GB of memory, of {usable_memory() / 1e9:,.1f} GB here")


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Turn the allocator's failure into one line.

    Args:
        what: Needs the memory.

    Raises:
        ConfigError: If the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch raises a bare RuntimeError
        text = str(error)
        if isinstance(error, MemoryError) or "allocate memory" in text or "overflow" in text:
            raise ConfigError(f"{what} needs more memory than there is: {text.splitlines()[0]}") from error
        raise


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """A number of torch threads, for a while.

    >>> with using_threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def inside_modes() -> bool:
    """Whether autocast or inference mode is on."""
    on = torch.is_autocast_enabled
    return torch.is_inference_mode_enabled() or on("cpu") or on("cuda")


@contextmanager
def without_modes() -> Iterator[None]:
    """The tensors' own precision, and gradients where they are wanted: no autocast and no inference mode, for a while.

    What a seed draws, a model's weights after training and every number measured then depend on no mode of the caller.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16), without_modes():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    if not inside_modes():
        yield
        return
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        yield
