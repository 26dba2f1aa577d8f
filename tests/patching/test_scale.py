"""Memory budgets, some edges of many, estimates checked where it matters, and precisions."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import PeakMemory

from mechinterp.core import METRICS, Circuit, ConfigError, Edge, Site, SiteError, UnsupportedError, rank_edges
from mechinterp.core.edge_scores import edge_scores
from mechinterp.interventions import activations, source_values
from mechinterp.models import ModelConfig, Transformer, to_bridge
from mechinterp.patching import edges as edges_module
from mechinterp.patching import estimate_edges, estimate_nodes, patch_edges, patch_nodes

TINY = 0.001
ANALYSES = {
    "estimate_edges": lambda model, pair, **options: estimate_edges(model, pair, steps=3, **options),
    "estimate_edges by component": partial(estimate_edges, method="eap-ig-activations", steps=3),
    "estimate_nodes": estimate_nodes,
    "patch_edges": patch_edges,
    "patch_nodes": patch_nodes,
}


def same(first, second, tolerance):
    scale = max(
        1.0, *(float(np.abs(part[name].values).max()) for part in (first, second) for name in ("effect", "clean"))
    )
    assert first.sizes == second.sizes and list(first.coords) == list(second.coords)
    for name in ("effect", "clean", "corrupted"):
        np.testing.assert_allclose(first[name].values, second[name].values, rtol=0, atol=tolerance * scale)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(ANALYSES)), st.sampled_from(["resample", "mean", "mean-pos", "zero"]))
def test_parts_of_the_batch_change_no_result(make_model, make_pair, architectures, data, name, ablation):
    config = {**data.draw(architectures), "n_layers": 2}
    model, pair = make_model(**config), make_pair(batch=5, seq=7, pad=config["pad_token"])
    options = (
        {"ablation": ablation, "direction": "noise"}
        if not name.startswith("estimate_edges")
        else {"ablation": ablation}
    )
    if "nodes" in name:
        options["site"] = data.draw(st.sampled_from(["z", "q", "v", "pattern", "resid_pre", "attn", "result"]))
    analyse = ANALYSES[name]
    same(analyse(model, pair, budget_mb=TINY, **options), analyse(model, pair, **options), 1e-12)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_parts_in_single_precision(make_model, make_pair, name):
    model, pair = make_model(d_mlp=24, act_fn="gelu").float(), make_pair(batch=6)
    same(ANALYSES[name](model, pair, budget_mb=TINY), ANALYSES[name](model, pair), 1e-6)


def test_parts_of_a_bridge_change_no_result(make_model, make_pair):
    model, pair = make_model(d_mlp=24).float(), make_pair(batch=6)
    bridge = to_bridge(model)
    for ablation in ("resample", "mean"):
        parts, whole = (estimate_nodes(bridge, pair, ablation=ablation, budget_mb=mb) for mb in (TINY, None))
        same(parts, whole, 1e-6)


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["eap-ig", "clean-corrupted"]))
def test_points_of_the_path_are_averaged(make_model, make_pair, architectures, data, method):
    """Second road: torch's gradient at each fork of the stream, one point and one reader at a time."""
    config = {**data.draw(architectures), "n_layers": 2}
    model, pair = make_model(**config), make_pair(batch=2, seq=6, pad=config["pad_token"])
    graph = model.config.graph()
    runs = [activations(model, batch.inputs) for batch in (pair.clean, pair.corrupted)]
    clean, corrupted = (source_values(model, run, graph) for run in runs)
    step = dict(zip(graph.sources, clean - corrupted, strict=True))
    stop, start = (run.resid_pre[0] for run in runs)
    points = [0.0, 1 / 3, 2 / 3] if method == "eap-ig" else [0.0, 1.0]
    guess = estimate_edges(model, pair, method=method, steps=3, metric="logit_diff")["effect"]
    first = Site("input").hook
    for reader in graph.readers:
        total, name, kept = 0, graph.input_hook(reader), {}

        def watch(value, hook, kept=kept):
            kept["x"] = value.detach().requires_grad_()
            return kept["x"]

        for point in points:
            stream = start + point * (stop - start)
            hooks = [(first, lambda value, hook, stream=stream: stream), (name, watch)]
            score = METRICS["logit_diff"](
                model.run_with_hooks(pair.clean.inputs, fwd_hooks=hooks), pair.clean, None
            ).sum()
            (grad,) = torch.autograd.grad(score, [kept["x"]], materialize_grads=True, allow_unused=True)
            total = total + (grad[:, :, reader.index] if grad.ndim == 4 else grad) / len(points)
        for source in graph.incoming(reader):
            expected = (step[source] * total).sum((1, 2)).detach().numpy()
            scale = max(1.0, float(np.abs(expected).max()), float(score.detach().abs()))
            np.testing.assert_allclose(
                guess.sel(edge=f"{source}->{reader}").values, expected, rtol=1e-9, atol=1e-9 * scale
            )


@settings(max_examples=25)
@given(st.data(), st.sampled_from(["resample", "mean", "zero"]), st.sampled_from(["merged", "split"]))
def test_gradients_where_the_sources_component_moves(make_model, make_pair, architectures, data, ablation, inputs):
    """Second road: one component, one point and one reader at a time, by hooks."""
    config = {**data.draw(architectures), "n_layers": 2}
    model, pair = make_model(**config), make_pair(batch=2, seq=6, pad=config["pad_token"])
    graph, steps = model.config.graph(inputs), 3
    clean, other = (
        source_values(model, activations(model, batch.inputs), graph) for batch in (pair.clean, pair.corrupted)
    )
    other = {"resample": other, "mean": other.mean(1, keepdim=True), "zero": torch.zeros_like(other)}[ablation]
    change = dict(zip(graph.sources, other - clean, strict=True))
    options = {"metric": "logit_diff", "ablation": ablation, "inputs": inputs}
    guess = estimate_edges(model, pair, method="eap-ig-activations", steps=steps, **options)["effect"]
    hooks = {source: "blocks.0.hook_resid_pre" for source in graph.roots}
    for source in graph.sources[len(graph.roots) :]:
        kind = "mlp" if source.kind == "mlp" else "attn"
        hooks[source] = f"blocks.{source.layer}.hook_{kind}_out"
    for reader in graph.readers:
        for hook in dict.fromkeys(hooks[source] for source in graph.incoming(reader)):
            together = [source for source in graph.sources if hooks[source] == hook]
            total, name, kept = 0, graph.input_hook(reader), {}

            def watch(value, hook, kept=kept):
                kept["x"] = value.detach().requires_grad_()
                return kept["x"]

            for point in range(steps):
                moved = sum(change[source] for source in together) * point / steps
                edits = [(hook, lambda value, hook, moved=moved: value + moved), (name, watch)]
                output = model.run_with_hooks(pair.clean.inputs, fwd_hooks=edits)
                score = METRICS["logit_diff"](output, pair.clean, None).sum()
                (grad,) = torch.autograd.grad(score, [kept["x"]], materialize_grads=True, allow_unused=True)
                total = total + (grad[:, :, reader.index] if grad.ndim == 4 else grad) / steps
            for source in together:
                expected = -(change[source] * total).sum((1, 2)).detach().numpy()
                scale = max(1.0, float(np.abs(expected).max()), float(score.detach().abs()))
                np.testing.assert_allclose(
                    guess.sel(edge=f"{source}->{reader}").values, expected, rtol=1e-9, atol=1e-9 * scale
                )


@pytest.mark.parametrize("name", sorted(ANALYSES))
@pytest.mark.parametrize("budget", [16, 24])
def test_the_budget_is_kept(name, budget):
    """Without a budget each takes more than the larger one."""
    config = ModelConfig(n_layers=4, n_heads=8, d_model=192, d_mlp=768, d_vocab=50, n_ctx=24, act_fn="gelu")
    model, pair = Transformer(config), _pair(32, 24, 50)
    with PeakMemory() as whole:
        ANALYSES[name](model, pair, **EVERYWHERE.get(name, {}))
    with PeakMemory() as memory:
        ANALYSES[name](model, pair, budget_mb=budget, **EVERYWHERE.get(name, {}))
    assert memory.peak < budget * 2**20 < whole.peak


EVERYWHERE = {"patch_nodes": {"at": "all"}, "patch_edges": {"edges": ["L2.H1.k", "L3.H0.v"]}}


def _pair(batch, seq, vocab):
    from mechinterp.core import Batch, Pair

    draw = torch.Generator().manual_seed(0)
    clean, corrupted, right, wrong = (torch.randint(vocab, (batch, seq), generator=draw) for _ in range(4))
    scored = torch.zeros(batch, seq, dtype=torch.bool)
    scored[:, -1] = True
    return Pair(Batch(clean, right, scored, wrong), Batch(corrupted, right, scored, wrong))


class Resumed:
    """Counts the patched runs of `patch_edges`, one for each edge of a batch."""

    def __init__(self, monkeypatch):
        self.runs, resume = 0, edges_module.resume

        def counted(base, start):
            self.runs += len(start.values)
            return resume(base, start)

        monkeypatch.setattr(edges_module, "resume", counted)


def test_only_the_edges_asked_for_are_run(make_model, make_pair, monkeypatch):
    model, pair = make_model(d_mlp=5), make_pair()
    graph = model.config.graph()
    every = patch_edges(model, pair)["effect"]
    into = [f"{source}->L2.H1.k" for source in graph.incoming(Site.parse("L2.H1.k"))]
    asked = {
        "L2.H1.k": into,
        Site.parse("logits"): [str(edge) for edge in graph.edges if edge.reader.kind == "logits"],
        "L0.H1->logits": ["L0.H1->logits"],
        Edge.parse("L0.H1->logits"): ["L0.H1->logits"],
        ("L1.mlp->logits", "L2.H1.k", Edge.parse(into[0])): ["L1.mlp->logits", *into],
        frozenset({"L1.mlp->logits", "L0.H1->L1.mlp"}): ["L0.H1->L1.mlp", "L1.mlp->logits"],
        Circuit(["L1.mlp->logits", "L0.H1->L1.mlp"]): ["L0.H1->L1.mlp", "L1.mlp->logits"],
    }
    for edges, expected in asked.items():
        resumed = Resumed(monkeypatch)
        some = patch_edges(model, pair, edges=edges)
        assert list(some["edge"].values) == expected and some["effect"].dims == ("edge", "example")
        assert resumed.runs == len(expected)
        np.testing.assert_allclose(some["effect"].values, every.sel(edge=expected).values, atol=1e-12)
        monkeypatch.undo()


def test_the_top_of_an_estimate(make_model, make_pair, monkeypatch):
    model, pair = make_model(d_mlp=5), make_pair()
    guess = estimate_edges(model, pair, method="eap")
    resumed = Resumed(monkeypatch)
    top = patch_edges(model, pair, edges=guess, top=5)
    ranked = [str(edge) for edge in rank_edges(edge_scores(guess), by="absolute")]
    assert list(top["edge"].values) == ranked[:5] and resumed.runs == 5
    assert list(patch_edges(model, pair, edges=guess)["edge"].values) == ranked


def test_an_estimate_is_checked_where_it_matters(make_model, make_pair):
    model, pair = make_model(d_mlp=5), make_pair()
    plain = estimate_edges(model, pair, method="eap")
    result = estimate_edges(model, pair, method="eap", verify=7)
    assert result["effect"].identical(plain["effect"]) and result["exact"].dims == plain["effect"].dims
    measured = ~np.isnan(result["exact"].values).any(1)
    size = np.abs(plain["effect"].mean("example").values)
    assert measured.sum() == 7 and size[measured].min() >= size[~measured].max()
    true = patch_edges(model, pair)["effect"].values[measured]
    np.testing.assert_allclose(result["exact"].values[measured], true, atol=1e-12)
    ours, true = plain["effect"].values[measured].mean(1), true.mean(1)
    assert result.attrs["verified"] == 7
    assert result.attrs["correlation"] == pytest.approx(np.corrcoef(ours, true)[0, 1])
    assert result.attrs["sign_agreement"] == pytest.approx((np.sign(ours) == np.sign(true)).mean())
    assert result.attrs["largest_deviation"] == pytest.approx(np.abs(ours - true).max())
    assert "exact" not in plain and "verified" not in plain.attrs


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_progress_comes_to_its_end(make_model, make_pair, name):
    heard = []
    ANALYSES[name](make_model(), make_pair(batch=3), budget_mb=TINY, progress=lambda *each: heard.append(each))
    done = [each[1] for each in heard]
    assert done == sorted(done) and len(done) >= 3 and heard[-1][1] == heard[-1][2]


@pytest.mark.parametrize("name", sorted(ANALYSES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(make_model, make_pair, name, dtype):
    with pytest.raises(UnsupportedError, match=f"weights are {str(dtype)[6:]}, too coarse.*model.float") as error:
        ANALYSES[name](make_model().to(dtype), make_pair())
    assert "\n" not in str(error.value)


def test_bad_choices_are_one_clear_line(make_model, make_pair):
    model, pair = make_model(), make_pair()
    guess = estimate_edges(model, pair, method="eap")
    with pytest.raises(SiteError, match=r"no reader 'L1.H0.z'.*Did you mean"):
        patch_edges(model, pair, edges="L1.H0.z")
    with pytest.raises(ConfigError, match=r"inputs=.split..*inputs=.merged."):
        patch_edges(model, pair, edges=Circuit(["embed->logits"], inputs="split"))
    with pytest.raises(ConfigError, match="top"):
        patch_edges(model, pair, edges=["L0.H0->logits"], top=3)
    with pytest.raises(ConfigError, match="top=0"):
        patch_edges(model, pair, edges=guess, top=0)
    with pytest.raises(ConfigError, match="verify=-1"):
        estimate_edges(model, pair, verify=-1)
    with pytest.raises(UnsupportedError, match="verify= need a Transformer"):
        estimate_edges(to_bridge(make_model().float()), pair, verify=3)
    with pytest.raises(ConfigError, match="budget_mb=0"):
        patch_edges(model, pair, budget_mb=0)
