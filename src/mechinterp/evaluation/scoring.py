"""From a model, a pair and a metric to one function: circuits in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mechinterp.core import Circuit, Metric, Pair
from mechinterp.interventions import Ablation, score_circuits

Score = Callable[[Sequence[Circuit]], np.ndarray]


def scorer(model: Any, pair: Pair, metric: str | Metric, ablation: Ablation) -> Score:
    """Circuits -> metric `[circuit, example]`, equal circuits run once.

    Under resampling a circuit and its pruned form are equal: what nothing feeds puts out its value in the corrupted
    run, which is what an absent edge carries, and what does not reach the logits is not read.
    """

    def score(circuits: Sequence[Circuit]) -> np.ndarray:
        if not circuits:
            return np.zeros((0, len(pair)))
        asked = [circuit.pruned() for circuit in circuits] if ablation == "resample" else list(circuits)
        unique = list(dict.fromkeys(asked))
        place = {circuit: row for row, circuit in enumerate(unique)}
        values = score_circuits(model, pair, unique, metric, ablation)
        return values.detach().cpu().double().numpy()[[place[circuit] for circuit in asked]]

    return score
