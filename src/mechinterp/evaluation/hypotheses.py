"""Five tests of the circuit hypothesis, each with its null and the direction that speaks for the circuit.

========================  ==================================================================  =====================
test                      null hypothesis                                                     speaks for the circuit
========================  ==================================================================  =====================
equivalence               C and N outperform each other equally often, within epsilon         null kept
independence              the complement's scores are independent of the model's              null kept
minimality (each live     removing e changes C more than removing a random added edge         null kept
edge)                     changes an inflated C, at least in a share q of draws
sufficiency               C is nearer to N than a random circuit in at most a share q         null rejected
partial necessity         knocking out C moves N further than knocking out a random circuit   null rejected
                          does, in at most a share q
========================  ==================================================================  =====================

Keeping a null is not proof: with few examples every null is kept.

Source: Shi et al. 2024, "Hypothesis testing the circuit hypothesis in LLMs", https://arxiv.org/abs/2410.13032.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import nn

from mechinterp._version import __version__
from mechinterp.core import Circuit, ConfigError, Edge, HookedModel, Options, Pair, derive_seed, held_out, takes
from mechinterp.core.statistics import binomial_test, false_discovery, rounding
from mechinterp.evaluation.live import edge_states, live_among, live_edges, states_of
from mechinterp.evaluation.nulls import inflate, random_circuits
from mechinterp.interventions import Judge

TESTS = ("equivalence", "independence", "minimality", "sufficiency", "partial_necessity")
SPEAKS_FOR = ("null kept", "null kept", "null kept", "null rejected", "null rejected")


@takes("metric", "ablation")
def hypothesis_tests(
    model: HookedModel | nn.Module,
    pair: Pair,
    circuit: Circuit,
    *,
    nulls: int = 100,
    quantile: float = 0.9,
    epsilon: float = 0.1,
    alpha: float = 0.05,
    seed: int = 0,
    live: Iterable[str | Edge] | None = None,
    options: Options,
) -> xr.Dataset:
    """The five tests on one circuit.

    Args:
        model: The whole model N.
        pair: Examples that discovery did not see; those that it saw are left out, `left_out` is their number.
        circuit: The circuit C; its distance from N is |mean m(C) - mean m(N)|.
        nulls: Random and inflated circuits, and a tenth of the permutations of the independence test.
        quantile: q, the share of random circuits to beat.
        epsilon: Tolerance of the equivalence test around one half.
        alpha: Level at which `outcome` is read off.
        seed: Of all draws.
        live: Edges that may take part in random circuits, and of the circuit's those whose need is tested; by default
            `live_edges` finds them.
        options: See `Options`; the input convention is the circuit's.

    Returns:
        `statistic`, `p_value`, `speaks_for`, `outcome` (test): `outcome` is "for" or "against" where a null is
        rejected, else "not against" or "not for": a kept null decides nothing. `edge_p_value` (edge): minimality's,
        before Bonferroni; the test's own is the smallest times the number of edges tested. `edge_q_value` (edge): the
        same, adjusted for the number of edges tested (`false_discovery`, any dependence). NaN where there is nothing to
        draw (an empty circuit, or one that has every live edge), and for edges that are not live: `edge_state` (edge)
        says whether such an edge is `idle`, so that nothing speaks for it, or `invisible` (see `edge_states`), so that
        this pair and ablation can say nothing of it.

    Raises:
        ConfigError: If `quantile`, `epsilon` or `alpha` is out of range, or fewer than two examples are left.
    """
    if not (0 < quantile < 1 and 0 <= epsilon < 0.5 and 0 < alpha < 1):
        raise ConfigError(f"0 < quantile < 1, 0 <= epsilon < 0.5, 0 < alpha < 1; got {quantile}, {epsilon}, {alpha}")
    pair, left_out = held_out(pair, circuit.origin)
    judge = Judge(model, pair, options.change(inputs=circuit.inputs))
    graph, whole = judge.graph, judge.whole
    states = edge_states(model, pair, live=live, options=judge.options)
    pool = live_edges(model, pair, states=states, options=judge.options) if live is None else live_among(states)
    drawn = random_circuits(graph, len((circuit & Circuit(pool, circuit.inputs)).pruned()), pool, nulls, seed)
    grown = [inflate(circuit, graph, pool, derive_seed(seed, "inflate", i)) for i in range(nulls)]
    inflated = [item for item in grown if item is not None]
    rng = np.random.default_rng(derive_seed(seed, "added edge"))
    cut = [Circuit(item.edges - {_any(item - circuit, rng)}, item.inputs) for item in inflated]
    judged = [edge for edge in circuit if edge in live_among(states)]
    groups = [
        [whole],
        [circuit],
        [whole - circuit],
        drawn,
        [whole - item for item in drawn],
        inflated,
        cut,
        [Circuit(circuit.edges - {edge}, circuit.inputs) for edge in judged],
    ]
    values = judge.scores([item for group in groups for item in group])
    parts = np.split(values, np.cumsum([len(group) for group in groups])[:-1])
    (full,), (inside,), (out,), random, random_out, bigger, smaller, less = parts

    def far(m: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(m.mean(-1) - full.mean()))

    tie = rounding(values)
    added = np.abs(bigger.mean(1) - smaller.mean(1))
    effects = np.abs(inside.mean() - less.mean(1))
    tested = np.array([binomial_test(int((e > added + tie).sum()), len(added), quantile, "less") for e in effects])
    by_edge = dict(zip(judged, tested, strict=True))
    edge_p = np.array([by_edge.get(edge, np.nan) for edge in circuit], dtype=float)
    results = [
        equivalence_test(inside, full, epsilon),
        independence_test(out, full, 10 * nulls, derive_seed(seed, "permutations")),
        (effects.min() if len(effects) else np.nan, min(tested.min() * len(tested), 1.0) if len(tested) else np.nan),
        _share(int((far(inside) < far(random) - tie).sum()), len(drawn) if len(circuit) else 0, quantile),
        _share(int((far(out) > far(random_out) + tie).sum()), len(drawn) if len(circuit) else 0, quantile),
    ]
    p_values = np.array([p for _, p in results])
    outcomes = xr.Dataset(
        {
            "statistic": ("test", np.array([value for value, _ in results])),
            "p_value": ("test", p_values),
            "speaks_for": ("test", np.array(SPEAKS_FOR)),
            "outcome": ("test", np.array([_outcome(p, s, alpha) for p, s in zip(p_values, SPEAKS_FOR, strict=True)])),
            "edge_p_value": ("edge", edge_p),
            "edge_q_value": ("edge", false_discovery(edge_p)),
            "edge_state": ("edge", states_of(circuit, states)),
        },
        coords={"test": list(TESTS), "edge": [str(edge) for edge in circuit]},
    )
    return outcomes.assign_attrs(
        judge.options.attrs("metric", "ablation"),
        quantile=quantile,
        epsilon=epsilon,
        alpha=alpha,
        seed=seed,
        left_out=left_out,
        version=__version__,
    )


def equivalence_test(
    circuit: Float[np.ndarray, " example"], full: Float[np.ndarray, " example"], epsilon: float = 0.1
) -> tuple[float, float]:
    """Null: |P(circuit scores higher than the model) - 1/2| <= epsilon. Keeping it speaks for the circuit.

    The p-value is the chance, with P at the edge of the null, 1/2 + epsilon, of a share at least as far from one half
    as the observed one. Examples with scores equal up to rounding are left out: the paper assumes there are none.

    Returns:
        The share of examples on which the circuit scores higher, and the p-value (1 if no example differs).
    """
    from scipy import stats

    apart = np.abs(circuit - full) > rounding(circuit, full)
    differs = circuit[apart] > full[apart]
    n = differs.size
    if not n:
        return 0.5, 1.0
    counts = np.arange(n + 1)
    far = np.abs(counts / n - 0.5) >= abs(differs.mean() - 0.5) - 1e-12
    return float(differs.mean()), float(min(stats.binom.pmf(counts, n, 0.5 + epsilon)[far].sum(), 1.0))


def independence_test(
    complement: Float[np.ndarray, " example"],
    full: Float[np.ndarray, " example"],
    permutations: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Null: the scores of the model without the circuit are independent of the model's. Keeping it speaks for it.

    Hilbert-Schmidt independence criterion with Gaussian kernels and a permutation test. Each kernel's width is its own
    variable's median distance (Gretton et al. 2007); the authors' code takes one width for both.

    Returns:
        The criterion, and the p-value: the share of permutations, the observed order among them, with one as large.
    """
    k, other = (_centred_kernel(values) for values in (complement, full))
    rng = np.random.default_rng(seed)
    observed = float((k * other).sum())
    orders = (rng.permutation(len(full)) for _ in range(permutations))
    # Equal up to rounding counts as equal.
    larger = sum(float((k * other[np.ix_(order, order)]).sum()) >= observed - 1e-9 * abs(observed) for order in orders)
    return observed / max(len(full) - 1, 1) ** 2, (1 + larger) / (permutations + 1)


def _share(wins: int, draws: int, quantile: float) -> tuple[float, float]:
    return (wins / draws if draws else float("nan")), binomial_test(wins, draws, quantile, "greater")


def _outcome(p_value: float, speaks_for: str, alpha: float) -> str:
    if np.isnan(p_value):
        return "not tested"
    if speaks_for == "null kept":
        return "against" if p_value <= alpha else "not against"
    return "for" if p_value <= alpha else "not for"


def _any(circuit: Circuit, rng: np.random.Generator) -> Edge:
    edges = list(circuit)
    return edges[int(rng.integers(len(edges)))]


def _centred_kernel(values: Float[np.ndarray, " example"]) -> Float[np.ndarray, "example example"]:
    if np.ptp(values) <= rounding(values):
        return np.zeros((len(values), len(values)))  # constant up to rounding, and so independent of everything
    square = (values[:, None] - values[None]) ** 2
    apart = square[np.triu_indices(len(values), 1)]
    # Where most values are equal the median is zero; the mean is not.
    width = float(np.median(apart)) or float(apart.mean())
    kernel = np.exp(-square / (2 * width))
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
