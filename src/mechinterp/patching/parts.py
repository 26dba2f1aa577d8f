"""The examples of a pair in parts that fit a memory budget. Examples do not see each other, so parts change no result.

A mean over examples is the one thing that all parts share: it is taken over all of them first.
"""

from __future__ import annotations

from collections.abc import Sequence

from mechinterp.core import Graph, Options, Pair
from mechinterp.interventions import Activations, mean_activations, placement
from mechinterp.models import Transformer

RUNS_MB = 512.0
"""For the clean and the corrupted run that patched runs start from; more examples at a time are no faster."""


def parts_of(pair: Pair, example_bytes: float, memory: float) -> list[Pair]:
    """The pair in parts of nearly equal size, each of which fits; the pair itself if all of it does.

    Args:
        pair: The pair.
        example_bytes: What an example takes.
        memory: Bytes that a part may take; a single example may take more.
    """
    most = max(1, int(memory / max(1.0, example_bytes)))
    if len(pair) <= most:
        return [pair]
    count = -(-len(pair) // most)
    size = -(-len(pair) // count)
    return [pair[slice(first, first + size)] for first in range(0, len(pair), size)]


def patching_parts(pair: Pair, row_size: int, itemsize: int, options: Options) -> list[Pair]:
    """Parts of a pair between whose runs is patched: one half of the budget is for these, the other for patched runs.

    Args:
        pair: On the model's device.
        row_size: Numbers that a position of an example takes.
        itemsize: Bytes of a number.
        options: The budget.
    """
    example = row_size * pair.clean.seq_len * itemsize
    return parts_of(pair, example, options.memory(2 * RUNS_MB, pair.clean.device) / 2)


def edge_parts(model: Transformer, pair: Pair, graph: Graph, options: Options) -> list[Pair]:
    """Parts for the effects of edges: both runs of a part are held, and what every source writes."""
    config = model.config
    row = 2 * config.run_width + (len(graph.sources) + 2 * config.n_heads) * config.d_model
    return patching_parts(pair, row, placement(model)[1].itemsize, options)


def node_parts(model: Transformer, pair: Pair, kind: str, options: Options) -> list[Pair]:
    """Parts for the effects of nodes of one kind: both runs of a part are held, and what one layer's nodes change."""
    if kind == "pattern" and options.ablation.startswith("mean"):
        return [pair]  # the mean of patterns is no pattern of a mean run
    config = model.config
    row = 2 * config.run_width + config.n_heads * (3 * config.d_model + pair.clean.seq_len)
    return patching_parts(pair, row, placement(model)[1].itemsize, options)


def shared_mean(model: Transformer, parts: Sequence[Pair], options: Options) -> Activations | None:
    """What replaces the other run of every part: a mean over the examples of all of them; None where there is no such.

    Args:
        model: A `Transformer` without hooks.
        parts: Of one pair.
        options: The ablation.
    """
    if len(parts) == 1 or not options.ablation.startswith("mean"):
        return None
    side = "corrupted" if options.direction == "noise" else "clean"
    return mean_activations(model, [getattr(part, side).inputs for part in parts])


def repeated(mean: Activations, examples: int) -> Activations:
    """A mean as the run of so many examples."""
    return mean.map(lambda value: value.expand(examples, *value.shape[1:]))
