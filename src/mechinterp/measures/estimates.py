"""Gradient estimates of edge effects, and how far they are from the exact ones where both are affordable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from mechinterp.core import HookedModel, Options, labelled, takes
from mechinterp.measures.registry import EXAMPLES, register_measure
from mechinterp.patching import estimate_edges, patch_edges
from mechinterp.tasks import ALL, Task

QUANTITIES = ("rank_correlation", "sign_agreement", "worst_error", "worst_edge")
_FLOOR = 0.01
"""Edges below this share of the largest exact effect have no sign worth agreeing on."""


@register_measure("edge_estimates", examples_of="edge_effects")
@takes("metric", "ablation", "inputs")
def edge_estimates(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    method: str = "eap-ig",
    steps: int = 10,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """Estimated effect of every edge, for models that are too large for `edge_effects`; as in `estimate_edges`.

    Dimensions edge, example.
    """
    pair = task.pair(examples, seed, corruption)
    result = estimate_edges(model, pair, method=method, steps=steps, options=options)
    return result["effect"].assign_attrs(result.attrs)


@register_measure("estimate_error")
@takes("metric", "ablation", "inputs")
def estimate_error(
    model: HookedModel,
    task: Task,
    seed: int,
    *,
    methods: Sequence[str] = ("eap", "eap-ig", "clean-corrupted"),
    steps: int = 10,
    examples: int = EXAMPLES,
    corruption: str = ALL,
    options: Options,
) -> xr.DataArray:
    """Error of edge estimates against the exact effects, both averaged over examples.

    Args:
        model: A `Transformer`.
        task: Draws the pairs.
        seed: Of the pairs.
        methods: Of `estimate_edges`.
        steps: Points of `eap-ig` and `eap-ig-activations`.
        examples: How many pairs.
        corruption: One of the task's, or `all` of them mixed.
        options: See `Options`; the metric is differentiable.

    Returns:
        Dimensions estimate, quantity. `rank_correlation`: Spearman's, over edges that are not exactly zero.
        `sign_agreement`: share of equal signs among edges of at least 1% of the largest exact effect. `worst_error`:
        the largest absolute error, as a share of the largest exact effect. `worst_edge`: its number in the graph's
        order of edges. All are NaN where every exact effect is zero.
    """
    pair = task.pair(examples, seed, corruption)
    options = options.for_model(model)
    exact = patch_edges(model, pair, options=options)["effect"].mean("example").values
    rows = []
    for method in methods:
        estimates = estimate_edges(model, pair, method=method, steps=steps, options=options)
        rows.append(compare(estimates["effect"].mean("example").values, exact))
    coords = {"estimate": list(methods), "quantity": list(QUANTITIES)}
    return labelled(
        np.array(rows), ["estimate", "quantity"], coords, steps=steps, **options.attrs("metric", "ablation")
    )


def compare(guess: np.ndarray, exact: np.ndarray) -> list[float]:
    """The four quantities for one method; `guess` and `exact` are `[edge]`.

    >>> compare(np.array([2.0, 1.0, -0.5, 0.0]), np.array([4.0, 3.0, 1.0, 0.0]))
    [1.0, 0.6666666666666666, 0.5, 0.0]
    """
    largest = np.abs(exact).max(initial=0.0)
    live = exact != 0
    if largest == 0:
        return [np.nan] * len(QUANTITIES)
    # A correlation needs two edges that differ, on either side.
    varied = live.sum() > 1 and np.ptp(exact[live]) > 0 and np.ptp(guess[live]) > 0
    rank = float(stats.spearmanr(guess[live], exact[live]).statistic) if varied else np.nan  # type: ignore[union-attr]
    clear = np.abs(exact) >= _FLOOR * largest
    error = np.abs(guess - exact)
    agreement = float((np.sign(guess[clear]) == np.sign(exact[clear])).mean())
    return [rank, agreement, float(error.max() / largest), float(error.argmax())]
