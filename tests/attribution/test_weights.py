import numpy as np
import pytest
import torch

from mechinterp.attribution import composition, copying_scores, ov_circuit, qk_circuit
from mechinterp.attribution.composition import composition_score
from mechinterp.core import Graph, UnsupportedError
from mechinterp.models import ModelConfig, Transformer

PLAIN = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 4, "d_vocab": 9, "n_ctx": 8, "normalization": "none"}


def make(seed=0, **changes):
    return Transformer(ModelConfig(**{**PLAIN, **changes}), seed).double()


def test_circuits_are_the_plain_products_without_a_norm():
    model = make()
    qk, ov = qk_circuit(model), ov_circuit(model)
    for layer in range(2):
        for head in range(3):
            attn = model.blocks[layer].attn
            want = model.W_E @ attn.W_Q[head] @ attn.W_K[head].T @ model.W_E.T
            assert np.allclose(qk["circuit"][layer, head], want.detach(), atol=1e-12)
            want = model.W_E @ attn.W_V[head] @ attn.W_O[head] @ model.W_U
            assert np.allclose(ov["circuit"][layer, head], want.detach(), atol=1e-12)
    assert qk.attrs["scale"] == pytest.approx(0.5)


def test_eigenvalues_and_singular_directions_rebuild_the_circuit():
    for result in (ov_circuit(make()), qk_circuit(make())):
        circuit = result["circuit"].values[1, 2]
        values = np.linalg.eigvals(circuit)
        values = values[np.argsort(-np.abs(values))][:4]
        found = result["eigenvalue_real"].values[1, 2] + 1j * result["eigenvalue_imag"].values[1, 2]
        assert np.allclose(np.abs(found), np.abs(values), atol=1e-10)
        assert found.sum().real == pytest.approx(np.trace(circuit))
        part = result.isel(layer=1, head=2)
        built = part["left"].values.T * part["singular_value"].values @ part["right"].values
        assert np.allclose(built, circuit, atol=1e-10)
        assert np.allclose(part["left"].values @ part["left"].values.T, np.eye(4), atol=1e-10)


@pytest.mark.parametrize("sizes", [{"d_vocab": 3}, {"d_vocab": 3, "d_vocab_out": 5}, {"d_vocab": 5, "d_vocab_out": 2}])
def test_circuits_of_fewer_tokens_than_a_head_is_wide(sizes):
    """As many singular directions and eigenvalues as the circuit has; of three tokens all three eigenvalues."""
    model = make(**sizes, d_head=8)
    many = min(sizes.values())
    for result, feature in ((qk_circuit(model), min(sizes["d_vocab"], 8)), (ov_circuit(model), many)):
        part = result.isel(layer=1, head=2)
        built = part["left"].values.T * part["singular_value"].values @ part["right"].values
        assert np.allclose(built, part["circuit"].values, atol=1e-12)
        assert result.sizes["feature"] == feature
        if "eigenvalue_real" in part:
            values = part["eigenvalue_real"].values + 1j * part["eigenvalue_imag"].values
            wanted = np.linalg.eigvals(part["circuit"].values)
            assert np.allclose(np.sort_complex(values), np.sort_complex(wanted), atol=1e-12)


@pytest.mark.parametrize("normalization", ["LN", "RMS"])
def test_folded_circuit_is_what_the_head_does_through_frozen_norms(normalization):
    # Move one source through value, output and unembedding with the true norms' scales: rows differ by a factor only.
    model = make(normalization=normalization)
    with torch.no_grad():
        for norm in (model.blocks[1].ln1, model.ln_final):
            norm.w.copy_(torch.rand(12, dtype=torch.float64) + 0.5)
        resid = model.W_E
        centred = resid - resid.mean(-1, keepdim=True) if normalization == "LN" else resid
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        head = model.blocks[1].attn
        written = centred / scale * model.blocks[1].ln1.w @ head.W_V[0] @ head.W_O[0]
        written = written - written.mean(-1, keepdim=True) if normalization == "LN" else written
        logits = written * model.ln_final.w @ model.W_U * scale
    assert np.allclose(ov_circuit(model)["circuit"][1, 0], logits, atol=1e-10)


def test_a_copying_head_scores_one_and_its_negative_minus_one():
    model = make(d_vocab=6, d_model=6, d_head=6, n_heads=2)
    with torch.no_grad():
        eye = torch.eye(6, dtype=torch.float64)
        model.embed.W_E.copy_(eye)
        model.unembed.W_U.copy_(eye)
        for head, sign in enumerate((1.0, -1.0)):
            model.blocks[0].attn.W_V[head].copy_(eye)
            model.blocks[0].attn.W_O[head].copy_(sign * eye)
    found = copying_scores(model)
    for score in ("eigenvalue", "rank"):
        assert found["copying"].sel(score=score).isel(layer=0).values == pytest.approx([1.0, -1.0])
    assert float(found["z"].sel(score="eigenvalue").isel(layer=0, head=0)) > 2
    assert found["chance"].sel(score="rank").values == pytest.approx(0.0)


def test_copying_scores_equal_the_definition():
    model = make()
    circuit = ov_circuit(model)["circuit"].values
    found = copying_scores(model)["copying"]
    values = np.linalg.eigvals(circuit)
    want = values.real.sum(-1) / np.abs(values).sum(-1)
    assert np.allclose(found.sel(score="eigenvalue"), want, atol=1e-8)
    ranks = (circuit > np.diagonal(circuit, axis1=-2, axis2=-1)[..., None]).sum(-1).mean(-1)
    assert np.allclose(found.sel(score="rank"), 1 - 2 * ranks / 8, atol=1e-12)


def test_untrained_heads_lie_within_the_copying_null():
    found = copying_scores(make(seed=3, n_heads=8, d_model=32, d_vocab=40, n_layers=4))
    for score in ("eigenvalue", "rank"):
        z = found["z"].sel(score=score).values
        assert abs(z.mean()) < 4 / np.sqrt(z.size) and 0.6 < z.std() < 1.5


def test_composition_equals_the_definition():
    model = make(n_layers=3)
    found = composition(model)["composition"]
    for name, (layer, head), port, (to, target) in [
        ("L0.H1->L1.H2.k", (0, 1), "k", (1, 2)),
        ("L0.H0->L2.H1.q", (0, 0), "q", (2, 1)),
        ("L1.H2->L2.H0.v", (1, 2), "v", (2, 0)),
    ]:
        writer, reader = model.blocks[layer].attn, model.blocks[to].attn
        ov = writer.W_V[head] @ writer.W_O[head]
        qk = reader.W_Q[target] @ reader.W_K[target].T
        other = {"q": qk, "k": qk.T, "v": reader.W_V[target] @ reader.W_O[target]}[port]
        want = torch.linalg.norm(ov @ other) / torch.linalg.norm(ov) / torch.linalg.norm(other)
        assert float(found.sel(edge=name)) == pytest.approx(want.item(), abs=1e-12)
    edges = [str(e) for e in Graph(3, 3, mlp=False).edges if e.source.head is not None and e.reader.kind in "qkv"]
    assert list(found["edge"].values) == edges


def test_untrained_heads_compose_as_random_factors_do():
    for normalization in ("LN", "none"):
        found = composition(make(seed=1, n_heads=8, d_model=48, n_layers=3, normalization=normalization))
        assert abs(float(found["z"].mean())) < 0.4 and 0.6 < float(found["z"].std()) < 1.6
        assert float(found["null_mean"]) == pytest.approx(48**-0.5, rel=0.06)


def test_a_planted_wire_has_a_large_z():
    model = make(d_model=24)
    with torch.no_grad():  # L1.H0's key reads just what L0.H2 writes
        model.blocks[1].attn.W_K[0].copy_(model.blocks[0].attn.W_O[2].T)
    z = composition(model)["z"]
    assert z["edge"].values[z.values.argmax()] == "L0.H2->L1.H0.k" and float(z.max()) > 5
    identical = torch.eye(3, dtype=torch.float64)
    assert composition_score((identical, identical), (identical, identical)).item() == pytest.approx(3**-0.5)


def test_models_without_tokens_are_refused_by_name():
    vectors = Transformer(
        ModelConfig(n_layers=1, n_heads=1, d_model=4, inputs="vectors", d_in=3, d_vocab_out=5, n_ctx=4)
    )
    with pytest.raises(UnsupportedError, match="inputs='vectors'"):
        ov_circuit(vectors)
    with pytest.raises(UnsupportedError, match="9 tokens go in, 5 come out"):
        copying_scores(make(d_vocab_out=5))
    with pytest.raises(UnsupportedError, match="one"):
        composition(make(n_layers=1))
