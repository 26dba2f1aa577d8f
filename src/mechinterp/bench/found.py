"""How often a circuit is found in models that have none, and in the shipped models that have one.

Models of the six shipped tasks: untrained; trained on shuffled targets; trained on independent inputs; trained as they
should be, and asked with the answers of other examples. Each is searched and judged as `study` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mechinterp.bench.timing import Figures
from mechinterp.claims import Subject, load_circuit
from mechinterp.claims.shipped import circuit_names
from mechinterp.core import Batch, ConfigError, Pair, derive_seed, generator
from mechinterp.core.statistics import binomial_limits
from mechinterp.discovery import discover
from mechinterp.evaluation import ABILITY, ability, evaluate
from mechinterp.interventions import as_transformer
from mechinterp.models import Transformer
from mechinterp.training import TrainConfig, train
from mechinterp.training.nulls import TRAINING_NULLS

FIRST_SEED = 5000
"""First seed of null models."""
MODELS, SIZES = 10, (64, 1024)
_MEANING = "share of models without a circuit in which one is found; low and high: exact 95% limits"


def found_in_nulls(quick: bool = False) -> Figures:
    """Search circuits where there are none: ten models of each task and kind, with 64 and with 1,024 pairs.

    Args:
        quick: One task, one model, few pairs, hardly any training: to see that it runs.

    Returns:
        `ratio`, `low`, `high` as `meaning` says. `sizes` has a row for each kind, task and number of pairs: `n` models,
        and in how many of them a circuit is found (`yes`) or left `undecided`.
    """
    names = ["markov"] if quick else circuit_names()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            circuit = load_circuit(name)
            main = circuit.models[circuit.main]
            record = circuit.records[circuit.main]
            for kind, models in _models(main, record.training, Path(folder) / name, 1 if quick else MODELS, quick):
                for size in (16,) if quick else SIZES:
                    answers = [_answer(model, main, kind, size, seed) for seed, model in enumerate(models)]
                    counts = {answer: answers.count(answer) for answer in ("yes", "undecided")}
                    rows.append({"size": f"{kind}: {name}", "shape": f"{size} pairs", "n": len(answers), **counts})
    null = [row for row in rows if not str(row["size"]).startswith("trained")]
    yes, total = (sum(int(row[column]) for row in null) for column in ("yes", "n"))
    low, high = binomial_limits(yes, total)
    return {
        "name": "found",
        "ratio": yes / total,
        "low": low,
        "high": high,
        "meaning": _MEANING,
        "target": 0.01,
        "sizes": rows,
    }


def _models(
    main: Subject, training: TrainConfig | None, folder: Path, count: int, quick: bool
) -> Iterator[tuple[str, list[Transformer]]]:
    """Kind -> models."""
    yield "trained", [main.final]
    yield "answers permuted", [main.final] * count
    yield "untrained", [Transformer(main.config, FIRST_SEED + number) for number in range(count)]
    plain = {} if training is None else training.model_dump()
    plain |= {"log_checkpoints": 0, "linear_checkpoints": 1} | ({"steps": 20, "warmup": 0} if quick else {})
    for null in TRAINING_NULLS:
        settings = TrainConfig.of({**plain, "null": null})
        folders = [folder / f"{null}-{number}" for number in range(count)]
        runs = [train(main.task, main.config, settings, FIRST_SEED + n, out) for n, out in enumerate(folders)]
        yield null, [as_transformer(run.model(), "this bench trains") for run in runs]


def _answer(model: Transformer, main: Subject, kind: str, size: int, seed: int) -> str:
    """Whether a circuit is found."""
    search, held = (main.task.pair(size, derive_seed(seed, "found", part)) for part in ("search", "held out"))
    if kind == "answers permuted":
        search, held = (permuted(pair, seed) for pair in (search, held))
    # One condition that fails decides, so the rest need not be computed.
    if ability(model, held).share.high <= ABILITY:
        return "no"
    try:
        circuit = discover(model, search)
    except ConfigError:  # there is no gap
        return "no"
    return str(evaluate(model, held, circuit, nulls=199).attrs["found"])


def permuted(pair: Pair, seed: int) -> Pair:
    """The same inputs; scored positions exchange their right and wrong answers, right with wrong."""
    order = torch.randperm(int(pair.clean.scored.sum()), generator=generator(seed, "permuted answers"))

    def exchanged(answers: Tensor, scored: Tensor) -> Tensor:
        answers = answers.clone()
        answers[scored] = answers[scored][order]
        return answers

    def moved(side: Batch) -> Batch:
        wrong = None if side.wrong is None else exchanged(side.wrong, side.scored)
        return replace(side, targets=exchanged(side.targets, side.scored), wrong=wrong)

    return replace(pair, clean=moved(pair.clean), corrupted=moved(pair.corrupted))
