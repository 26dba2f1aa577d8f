"""All edges: ours against one hooked forward pass per edge, and against our own gradient estimate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mechinterp.bench.inputs import describe, random_model, random_pair
from mechinterp.bench.timing import Figures, alternate, figures, measure
from mechinterp.core import Edge, Graph, Options, Pair, Site
from mechinterp.interventions import Scorer, run_edited, take
from mechinterp.models import Transformer
from mechinterp.patching import estimate_edges, patch_edges

_MEANING = (
    "time of one hooked forward pass per edge over ours, target >= 15; "
    "exact_over_eap_ig: our exact time over our ten-step EAP-IG's, target < 1"
)


def edges(quick: bool = False) -> Figures:
    """Time of one hooked pass per edge over ours, and of exact effects over ten steps of EAP-IG.

    Args:
        quick: A small case once, to see that it runs.

    Returns:
        `ratio`, `low`, `high` for the merged edges of 2 layers of 8 heads, attention only, batch 16, length 40, the
        last position scored, and `exact_over_eap_ig` there; `sizes` has all cases, `large` the time for 4 layers of 8
        heads with MLPs, where one pass per edge takes too long to measure. `error` is the largest difference of any
        effect, in nats.
    """
    sizes = {"n_layers": 2, "n_heads": 2, "seq": 10} if quick else {"n_layers": 2, "n_heads": 8, "seq": 40}
    cases: tuple[tuple[str, str, int], ...] = (("merged", "last", 7), ("merged", "all", 3), ("split", "last", 3))
    rows = [_one(sizes, inputs, scored, 1 if quick else blocks) for inputs, scored, blocks in cases]
    more = {"exact_over_eap_ig": rows[0]["exact_over_eap_ig"]} | ({} if quick else {"large": _large()})
    return figures("edges", _MEANING, 15.0, rows, rows[0], **more)


def _one(sizes: dict[str, int], inputs: str, scored: str, blocks: int) -> Figures:
    model, pair = random_model(**sizes), random_pair(sizes["seq"], scored)
    expected, effects = hooked_edges(model, pair, inputs).numpy(), _exact(model, pair, inputs)
    calls = 5 if scored == "last" else 2
    loop = alternate(
        lambda: hooked_edges(model, pair, inputs), lambda: _exact(model, pair, inputs), blocks, (1, calls), warm=False
    )
    gradient = alternate(lambda: _exact(model, pair, inputs), lambda: _estimate(model, pair, inputs), blocks, (2, 1))
    against = gradient.ratio()
    return {
        **describe(model, pair),
        "inputs": inputs,
        "edges": len(effects),
        **loop.ratio(),
        **loop.seconds("hooked_seconds", "our_seconds"),
        "exact_over_eap_ig": against["ratio"],
        "exact_over_eap_ig_low": against["low"],
        "exact_over_eap_ig_high": against["high"],
        "error": float(np.abs(effects - expected).max()),
        "largest_effect": float(np.abs(expected).max()),
    }


def _large() -> Figures:
    model, pair = random_model(4, 8, 64, d_mlp=256), random_pair(64, "last")
    count = len(model.config.graph().edges)
    return {**describe(model, pair), "edges": count, "seconds": measure(lambda: _exact(model, pair)), "target": 20.0}


def _exact(model: Transformer, pair: Pair, inputs: str = "merged") -> np.ndarray:
    return patch_edges(model, pair, direction="noise", inputs=inputs)["effect"].values


def _estimate(model: Transformer, pair: Pair, inputs: str) -> np.ndarray:
    return estimate_edges(model, pair, method="eap-ig", steps=10, inputs=inputs)["effect"].values


def hooked_edges(model: Transformer, pair: Pair, inputs: str = "merged") -> Tensor:
    """Effects of all edges by noising, one hooked forward pass for each: what one writes without an engine.

    Each pass adds what the source wrote in the corrupted run, less what it wrote in the clean one, to one reader's
    input. Both runs are made once.

    Returns:
        `[edge, batch]`, in the graph's order.
    """
    graph = model.config.graph(inputs)
    _, positions, _ = pair.clean.at_scored()
    with torch.no_grad():
        clean, corrupted = (_written(model, batch.inputs, graph) for batch in (pair.clean, pair.corrupted))
        output = take(model(pair.clean.inputs), positions)
        score = Scorer.of(pair, Options(metric="logit_diff"), output)
        base = score(output)
        rows = []
        for edge in graph.edges:
            edit = _add(edge, corrupted[edge.source] - clean[edge.source])
            output = run_edited(model, pair.clean.inputs, {graph.input_hook(edge.reader): edit})
            rows.append(base - score(take(output, positions)))
    return torch.stack(rows)


def _written(model: Transformer, tokens: Tensor, graph: Graph) -> dict[Site, Tensor]:
    """What each source writes, through the hooks that anybody would use."""
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(("result", "out", "embed", "pre")))
    values = {site: cache[site.hook] for site in graph.sources}
    return {site: value if site.head is None else value[:, :, site.head] for site, value in values.items()}


def _add(edge: Edge, step: Tensor):
    head = None if edge.reader.head is None else edge.reader.index

    def edit(value: Tensor) -> Tensor:
        if head is None:
            return value + step
        value = value.clone()
        value[:, :, head] += step
        return value

    return edit
