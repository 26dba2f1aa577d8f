"""Estimates of all edges of a model as large as GPT-2 small: time and memory, against EAP-IG's public way.

Memory does not go back to what it was before a call, so each call has a process of its own. Processes of the two ways
run in turn, and their clock is their own processor time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from mechinterp.bench.inputs import describe, random_model, random_pair
from mechinterp.bench.peer import peer_eap_ig
from mechinterp.bench.timing import Figures, Times, figures, measure
from mechinterp.core import METRICS, Pair, RunError
from mechinterp.core.machine import using_threads
from mechinterp.models import Transformer
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes

STEPS, BLOCKS = 5, 3
LARGE = {"n_layers": 12, "n_heads": 12, "seq": 24, "d_mlp": 3072, "d_model": 768}
_SMALL = {"n_layers": 2, "n_heads": 4, "seq": 12, "d_mlp": 128, "d_model": 32}
_MEANING = (
    "processor time of EAP-IG's public way over ours, all edges, five steps; target >= 1; peak_mb and peer_peak_mb: "
    "memory above the loaded model, ours at most half"
)


def scale(quick: bool = False) -> Figures:
    """Processor time and peak memory of EAP-IG on all edges, the peer's over ours; and ours of other effects.

    Args:
        quick: A small model once, to see that it runs.

    Returns:
        `ratio`, `low`, `high` (time), `memory_ratio` (peer's peak over ours), `error` (the largest difference of mean
        effects); `sizes` has a row for EAP-IG and, of ours alone, for other effects with the memory that they took.
    """
    sizes = _SMALL if quick else LARGE
    blocks = [_block(sizes, number) for number in range(1 if quick else BLOCKS)]
    times = Times(*(np.array([block[way]["seconds"] for block in blocks]) for way in ("peer", "eap-ig")))
    peaks = {way: float(np.median([block[way]["peak_mb"] for block in blocks])) for way in ("peer", "eap-ig")}
    scores = [np.array(blocks[0][way]["scores"]) for way in ("peer", "eap-ig")]
    with torch.random.fork_rng(devices=[]):
        model = random_model(**sizes)
    pair = random_pair(sizes["seq"], "last")
    row = {
        **describe(model, pair),
        "inputs": "merged",
        "edges": len(scores[0]),
        **times.ratio(),
        **times.seconds("peer_seconds", "our_seconds"),
        "peer_peak_mb": peaks["peer"],
        "peak_mb": peaks["eap-ig"],
        "error": float(np.abs(scores[0] - scores[1]).max()),
        "largest_effect": float(np.abs(scores[0]).max()),
    }
    others = [] if quick else [_alone(sizes, way) for way in IN_TURN if way not in ("peer", "eap-ig")]
    ratio = peaks["peer"] / max(peaks["eap-ig"], 1e-9)
    return figures("scale", _MEANING, 1.0, [row, *others], row, memory_ratio=ratio)


def _block(sizes: dict[str, int], number: int) -> dict[str, Figures]:
    """Both ways once; who begins alternates."""
    ways = ("peer", "eap-ig") if number % 2 == 0 else ("eap-ig", "peer")
    return {way: _child(sizes, way) for way in ways}


def _alone(sizes: dict[str, int], way: str) -> Figures:
    result = _child(sizes, way)
    return {"size": way, "shape": "ours alone", "our_seconds": result["seconds"], "peak_mb": result["peak_mb"]}


def _child(sizes: dict[str, int], way: str) -> Figures:
    """What one way takes, measured in a process of its own.

    Raises:
        RunError: If the process fails.
    """
    command = [sys.executable, "-m", "mechinterp.bench.scale", json.dumps(sizes), way]
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RunError(f"the benchmark's process '{way}' failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _peer(model: Transformer, pair: Pair) -> list[float]:
    scores = peer_eap_ig(model, pair, lambda output: METRICS["logit_diff"](output, pair.clean, None), STEPS)
    return list(scores.values())


def _edges(model: Transformer, pair: Pair, method: str) -> list[float]:
    return estimate_edges(model, pair, method=method, steps=STEPS)["effect"].mean("example").values.tolist()


def _nodes(model: Transformer, pair: Pair) -> list[float]:
    return patch_nodes(model, pair, site="z", at="all")["effect"].mean("example").values.ravel().tolist()


def _node_estimates(model: Transformer, pair: Pair) -> list[float]:
    return estimate_nodes(model, pair, site="z", at="all")["effect"].mean("example").values.ravel().tolist()


def _reader(model: Transformer, pair: Pair) -> list[float]:
    reader = f"L{max(0, model.config.n_layers - 2)}.H1.k"
    return patch_edges(model, pair, edges=reader)["effect"].mean("example").values.tolist()


IN_TURN = {
    "peer": _peer,
    "eap-ig": lambda model, pair: _edges(model, pair, "eap-ig"),
    "eap": lambda model, pair: _edges(model, pair, "eap"),
    "clean-corrupted": lambda model, pair: _edges(model, pair, "clean-corrupted"),
    "estimates of all heads": _node_estimates,
    "exact, all heads": _nodes,
    "exact, edges into one key": _reader,
}
"""What is measured, each in a process of its own."""


def _measured(sizes: dict[str, int], way: str) -> Figures:
    """Processor seconds of a call, and its peak memory above what the process took before it."""
    model, pair = random_model(**sizes).requires_grad_(False), random_pair(sizes["seq"], "last")
    scores: list[list[float]] = []
    before = _resident_mb()
    seconds = measure(lambda: scores.append(IN_TURN[way](model, pair)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "peak_mb": peak - before, "scores": scores[0]}


def _resident_mb() -> float:
    """Memory of this process now; where the system does not tell, the most that it has taken."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    with using_threads(1):
        print(json.dumps(_measured(json.loads(sys.argv[1]), sys.argv[2])))
