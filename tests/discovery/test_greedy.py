"""Greedy removal: its steps are those of a plain loop, and two-sided it keeps suppressors and backups."""

import numpy as np
import pytest

from mechinterp.core import Circuit, ConfigError, Options
from mechinterp.discovery import discover
from mechinterp.discovery.greedy import greedy
from mechinterp.interventions import Judge, score_circuits
from mechinterp.known import known_models, later_head_model
from mechinterp.patching import patch_edges


def plain_greedy(model, pair, share, ablation):
    """One run of one circuit at a time."""

    def mean(circuit):
        return float(score_circuits(model, pair, [circuit], ablation=ablation).mean())

    circuit = Circuit(model.config.graph("split").edges, "split")
    full, empty = mean(circuit), mean(Circuit([], "split"))
    removed = []
    effects = abs(patch_edges(model, pair, ablation=ablation, inputs="split")["effect"]).mean("example")
    # Of equal losses the least effect, and of equal effects the edge nearest to the logits.
    order = sorted(reversed(sorted(circuit)), key=lambda edge: round(float(effects.sel(edge=str(edge))), 6))
    while len(circuit):
        tried = {edge: (mean(circuit - Circuit([edge], "split")) - empty) / (full - empty) for edge in sorted(circuit)}
        best = max(tried.values())
        if best < share:
            break
        edge = min((one for one, value in tried.items() if value >= best - 1e-9), key=order.index)
        circuit = circuit - Circuit([edge], "split")
        removed.append(edge)
    return circuit, tuple(removed)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_each_step_removes_the_edge_that_costs_least(ablation):
    made = later_head_model("suppressor")
    pair = made.pair(16)
    result = greedy({"": Judge(made.model, pair, Options(ablation=ablation, inputs="split"))}, share=0.8)
    circuit, removed = plain_greedy(made.model, pair, 0.8, ablation)
    assert (result.circuit, result.removed) == (circuit, removed) and removed


def test_a_number_of_edges_and_no_more():
    made = known_models()["and"].build(inert_heads=1)
    pair = made.pair(16)
    found = discover(made.model, pair, method="greedy", k=5, inputs="split")
    assert found == made.seen("resample") and len(found) == found.origin["k"] == 5
    with pytest.raises(ConfigError, match="k=400: the model has 29 edges"):
        discover(made.model, pair, method="greedy", k=400, inputs="split")


def test_two_sided_keeps_the_suppressor_and_one_sided_does_not():
    made = later_head_model("suppressor")
    for ablation in ("resample", "zero"):
        pair, options = made.pair(16), {"method": "greedy", "ablation": ablation, "inputs": "split", "share": 0.95}
        assert discover(made.model, pair, two_sided=True, **options) == made.seen(ablation)
        alone = discover(made.model, pair, **options)
        assert len(alone) < len(made.seen(ablation)) and alone.edges < made.circuit.edges


def test_two_sided_keeps_a_backup_and_what_it_stands_by_for():
    made = later_head_model("backup")
    pair = made.pair(16)
    options = {"method": "greedy", "inputs": "split", "share": 0.95}
    both = discover(made.model, pair, two_sided=True, **options)
    heads = {site for site in made.circuit.components if site.head is not None}
    assert both.edges < made.circuit.edges and heads <= set(both.components) and len(heads) == 2
    alone = discover(made.model, pair, **options)
    judge = Judge(made.model, pair, Options(inputs="split"))
    assert judge.lost(alone).value < 0.01 < 0.99 < judge.lost(both).value


def test_swaps_never_make_a_circuit_larger_or_worse(make_model, make_pair):
    model, pair = make_model(n_layers=2), make_pair(batch=16)
    judge = Judge(model, pair, Options(ablation="zero"))
    plain, swapped = (greedy({"": judge}, k=6, swaps=swaps).circuit for swaps in (False, True))
    scores = judge.scores([plain, swapped]).mean(1)
    assert len(swapped) <= len(plain) == 6 and scores[1] >= scores[0] - 1e-12


def test_equal_losses_are_counted():
    made = known_models()["copies"].build(inert_heads=1)
    result = greedy(Judge(made.model, made.pair(16), Options(inputs="split")).by_corruption(), share=0.9)
    assert result.ties > 0 and not set(result.removed) & result.circuit.edges
    assert np.isclose(len(result.removed) + len(result.circuit), len(made.model.config.graph("split").edges))
