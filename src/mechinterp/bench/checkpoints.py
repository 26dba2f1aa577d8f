"""Tracing the checkpoints of a Pythia-like model: time, and memory as their number grows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch

from mechinterp.bench.timing import Figures
from mechinterp.core import derive_seed
from mechinterp.measures import measure
from mechinterp.tasks import get
from mechinterp.timeline import trace
from mechinterp.training import Run

FEW, MANY = 5, 20
_MEANING = "peak memory of tracing 20 checkpoints over that of tracing 5, one process each"
_FULL = {"layers": 6, "heads": 8, "d_model": 512, "vocab": 1024, "length": 64}
_QUICK = {"layers": 2, "heads": 2, "d_model": 32, "vocab": 64, "length": 24}


def checkpoint_costs(quick: bool = False) -> Figures:
    """Save checkpoints of a random GPT-NeoX of `pythia-70m`'s shape, in half precision, and trace them.

    Head scores on 32 sequences of repeated random tokens, their loss, and EAP of every edge on 16 pairs.

    Args:
        quick: A small model, to see that it runs.

    Returns:
        `ratio`: of the peaks of memory. `sizes` has a row for each number of checkpoints: `seconds` of the first look,
        of which `loading` the models, and of the second look (`again`); `peak_mb` above the imported libraries, and
        `model_mb`, the weights of one model in float32.
    """
    shape, counts = (_QUICK, (2, 4)) if quick else (_FULL, (1, FEW, MANY))
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoints(Path(folder), max(counts), shape)
        rows = [_in_a_process(Path(folder), count, shape["length"]) for count in counts]
    ratio = rows[-1]["peak_mb"] / rows[-2]["peak_mb"]
    sizes = [{"size": f"{row['checkpoints']} checkpoints", "shape": str(shape), **row} for row in rows]
    return {
        "name": "checkpoints", "ratio": ratio, "low": ratio, "high": ratio, "meaning": _MEANING, "target": 1.05,
        "sizes": sizes,
    }  # fmt: skip


def save_checkpoints(folder: Path, count: int, shape: dict[str, int]) -> None:
    """Random weights that drift from checkpoint to checkpoint, as `save_pretrained` writes them."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        hidden_size=shape["d_model"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=4 * shape["d_model"],
        vocab_size=shape["vocab"],
        max_position_embeddings=shape["length"],
    )
    draw = torch.Generator().manual_seed(derive_seed(0, "bench", "checkpoints"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config)
    for step in range(count):
        for weight in model.parameters():
            weight.data.add_(0.005 * torch.randn(weight.shape, generator=draw))
        model.half().save_pretrained(folder / f"step{step}")
        model.float()


def _in_a_process(folder: Path, count: int, length: int) -> dict[str, float]:
    code = f"from mechinterp.bench.checkpoints import trace_some; trace_some({str(folder)!r}, {count}, {length})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def trace_some(folder: str, count: int, length: int) -> None:
    """Trace the first checkpoints of a folder twice, and print what it cost."""
    # What is loaded once has no part in what a checkpoint needs.
    import_module("transformers.models.gpt_neox.modeling_gpt_neox")
    torch.set_num_threads(1)
    task = get("induction", vocab=length, seq_len=length, segment=length // 4)
    measures = [
        measure("loss", examples=32),
        measure("head_scores", examples=32),
        measure("edge_estimates", method="eap", examples=16),
    ]
    with tempfile.TemporaryDirectory() as out:
        run = Run.from_hf(folder, {step: f"step{step}" for step in range(count)}, task, Path(out) / "run")
        before = _peak_mb()
        loading = 0.0

        class Timed(Run):
            """Times the loading of models."""

            def model(self, step: int | None = None) -> torch.nn.Module:
                nonlocal loading
                start = time.perf_counter()
                model = super().model(step)
                loading += time.perf_counter() - start
                return model

        start = time.perf_counter()
        trace(Timed(run.path), measures)
        first = time.perf_counter()
        trace(Run(run.path), measures)
        again = time.perf_counter() - first
        peak = _peak_mb() - before
        weights = sum(value.numel() for value in run.weights(0).values())
    row = {"seconds": first - start, "loading": loading, "again": again, "peak_mb": peak, "model_mb": weights * 4 / 1e6}
    print(json.dumps({"checkpoints": count, **row}))


def _peak_mb() -> float:
    """The peak of this process alone; `ru_maxrss` begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
