"""The methods' exam: exact and estimated edge effects held against every known circuit."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.bench.timing import Figures
from mechinterp.core import Batch, ConfigError, Metric, Options, Pair
from mechinterp.evaluation import edge_auroc, edge_states
from mechinterp.evaluation.live import states_of
from mechinterp.known import KnownModel, known_models
from mechinterp.patching import estimate_edges, patch_edges

_MEANING = (
    "edge AUROC of ten-step EAP-IG over that of exact effects, mean over exams; low and high: the worst and the best "
    "exam; 0.5 is chance"
)
_METHODS = ("exact", "eap", "eap-ig", "clean-corrupted")
ROUNDING = 1e-9
"""Effects below this share of the largest are zero: else noise would rank edges that no method can tell apart."""
QUICK = ("induction", "or", "compiled/reverse")


def truth(quick: bool = False) -> Figures:
    """Edge AUROC of exact patching and of gradient estimates on every model with a known circuit.

    Each exam patches the clean run and scores the edges that it can identify (`KnownModel.seen`) against those outside
    the circuit; of the true edges that it cannot identify it says how many are idle in it, and how many invisible
    (`edge_states`). Values are scored by how far they lie from the wrong to the right answer: squared distance has no
    gradient where the answer is exact, as it is here, and every estimate from the clean run alone would be zero.

    Args:
        quick: Three models, to see that it runs.

    Returns:
        `ratio`, `low`, `high` as `meaning` says; `sizes` has each exam's AUROC by method.
    """
    names = QUICK if quick else tuple(known_models())
    rows = [_exam(name, ablation) for name in names for ablation in ("resample", "zero")]
    shares = [row["eap_ig"] / row["exact"] for row in rows]
    return {
        "name": "truth",
        "ratio": float(np.mean(shares)),
        "low": min(shares),
        "high": max(shares),
        "meaning": _MEANING,
        "target": None,
        "sizes": rows,
    }


def _exam(name: str, ablation: str) -> Figures:
    known = known_models()[name].build(inert_heads=1)
    pair, identifiable = known.pair(32, 1), known.seen(ablation)
    metric: str | Metric = toward_right if known.metric == "mse" else known.metric
    options = Options(metric=metric, ablation=ablation, inputs=known.circuit.inputs)
    unseen = states_of(known.circuit - identifiable, edge_states(known.model, pair, options=options)).tolist()
    row: Figures = {"size": name, "shape": ablation, "seen": len(identifiable), "scored_edges": 0}
    row |= {state: unseen.count(state) for state in ("idle", "invisible")}
    for method in _METHODS:
        effect = abs(_effects(known, pair, method, options)).mean("example")
        effect = effect.where(effect > ROUNDING * float(effect.max()), 0.0)
        pool = [edge for edge in effect["edge"].values if edge not in known.circuit or edge in identifiable]
        row |= {"scored_edges": len(pool), method.replace("-", "_"): edge_auroc(effect, known.circuit, pool)}
    return row


def _effects(known: KnownModel, pair: Pair, method: str, options: Options) -> xr.DataArray:
    if method == "exact":
        return patch_edges(known.model, pair, options=options)["effect"]
    return estimate_edges(known.model, pair, method=method, steps=10, options=options)["effect"]


def toward_right(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Projection of value outputs on the step from the wrong to the right answer, mean over scored positions."""
    if batch.wrong is None:
        raise ConfigError("toward_right needs batch.wrong")
    along = (output * (batch.targets - batch.wrong)).sum(-1)
    return torch.where(batch.scored, along, torch.zeros_like(along)).sum(1) / batch.scored.sum(1)
