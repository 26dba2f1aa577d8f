"""From a model, a pair and a metric to one function: circuits in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mechinterp.core import Circuit, Graph, Inputs, Metric, Pair, UnsupportedError
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


def graph_of(model: Any, inputs: Inputs) -> Graph:
    """The model's edges.

    Raises:
        UnsupportedError: If the model cannot list them.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "graph"):
        raise UnsupportedError(
            f"circuits are judged on a mechinterp Transformer; {type(model).__name__} lists no edges"
        )
    return config.graph(inputs)  # type: ignore[union-attr]
