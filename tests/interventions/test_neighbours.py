"""A circuit's neighbours against runs of each of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.core import Circuit, SiteError
from mechinterp.interventions import score_circuits, score_neighbours


@settings(max_examples=30)
@given(
    st.data(),
    st.sampled_from(["merged", "split"]),
    st.sampled_from(["resample", "mean", "mean-pos", "zero"]),
    st.sampled_from([0.3, 0.7, 1.0]),
    st.booleans(),
    st.sampled_from([0.0001, 16.0]),
)
def test_neighbours_equal_their_own_runs(
    make_model, make_pair, architectures, data, inputs, ablation, share, one_scored, budget
):
    config = data.draw(architectures)
    model = make_model(**config)
    pair = make_pair(one_scored=one_scored, batch=3, seq=7, pad=config["pad_token"])
    edges = model.config.graph(inputs).edges
    draw = torch.rand(len(edges), generator=torch.Generator().manual_seed(len(edges)))
    circuit = Circuit([edge for edge, number in zip(edges, draw, strict=True) if number < share], inputs)
    options = {"ablation": ablation, "metric": "kl"}
    fast = score_neighbours(model, pair, circuit, edges, budget_mb=budget, **options).numpy()
    slow = score_circuits(model, pair, [Circuit(circuit.edges ^ {edge}, inputs) for edge in edges], **options).numpy()
    scale = max(1.0, float(np.abs(slow).max()))
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9 * scale)


def test_some_edges_in_the_order_wanted(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    every = list(model.config.graph().edges)
    circuit = Circuit(every[::2])
    wanted = ["L1.H0->logits", "input->L0.H1.v", "L0.mlp->L2.H1.k", "L1.mlp->L2.mlp"]
    some = score_neighbours(model, pair, circuit, wanted)
    whole = score_neighbours(model, pair, circuit, every)
    torch.testing.assert_close(some, whole[[[str(edge) for edge in every].index(name) for name in wanted]])
    with pytest.raises(SiteError, match=r"no edge 'L0\.H0->L0\.H1\.k'"):
        score_neighbours(model, pair, circuit, ["L0.H0->L0.H1.k"])
