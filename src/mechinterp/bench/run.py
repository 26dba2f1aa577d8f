"""Benchmarks by name."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mechinterp._version import __version__
from mechinterp.bench.checkpoints import checkpoint_costs
from mechinterp.bench.coverage import coverage
from mechinterp.bench.discovery import discovery
from mechinterp.bench.discovery_trained import trained_discovery
from mechinterp.bench.edges import edges
from mechinterp.bench.found import found_in_nulls
from mechinterp.bench.onset import onset_calibration
from mechinterp.bench.patching import patching
from mechinterp.bench.scale import scale
from mechinterp.bench.tasks import tasks
from mechinterp.bench.timing import Figures
from mechinterp.bench.trace import trace_costs
from mechinterp.bench.training import training
from mechinterp.core import ConfigError, suggest, using_threads

BENCHES: dict[str, Callable[[bool], Figures]] = {
    "training": training,
    "patching": patching,
    "edges": edges,
    "scale": scale,
    "tasks": tasks,
    "discovery": discovery,
    "coverage": coverage,
    "found": found_in_nulls,
    "onset": onset_calibration,
    "trace": trace_costs,
    "checkpoints": checkpoint_costs,
}
NAMES = tuple(BENCHES)


def run(name: str, quick: bool = False, threads: int = 1, folder: Path | None = None) -> Figures:
    """Run one benchmark; each takes under a minute on an idle machine, but `checkpoints` four, `discovery` and `scale`
    ten, `coverage` and `onset` half an hour, and `found`, which trains 120 models, an hour and a half.

    Args:
        name: `training`, `patching`, `edges`, `scale`, `tasks`, `discovery`, `coverage`, `found`, `onset`, `trace` or
            `checkpoints`.
        quick: A small case once: it shows that all runs and agrees, its times mean nothing.
        folder: For `discovery`: examine the searches on trained models, whose Runs are kept here.
        threads: Torch's threads. With one the clock is processor time, with more it is time on the wall.

    Returns:
        Plain data: `name`, `ratio` with `low` and `high` (median, 10th and 90th percentile over blocks), `meaning`,
        `target`, `sizes` (one row a case), `error` where results are compared, `threads`, `seconds`, versions.

    Raises:
        ConfigError: If there is no such benchmark, no thread, or a folder for one that trains nothing.
    """
    if name not in BENCHES:
        raise ConfigError(f"no benchmark '{name}'.{suggest(name, BENCHES)}")
    if threads < 1:
        raise ConfigError(f"threads={threads}: at least 1")
    if folder is not None and name != "discovery":
        raise ConfigError(f"benchmark '{name}' keeps no Runs: a folder belongs to 'discovery'")
    begin = time.perf_counter()
    with using_threads(threads):
        result = BENCHES[name](quick) if folder is None else trained_discovery(folder, quick)
    return {
        **result,
        "quick": quick,
        "threads": threads,
        "clock": "processor time" if threads == 1 else "wall",
        "seconds": time.perf_counter() - begin,
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__.split("+")[0],
        "version": __version__,
    }
