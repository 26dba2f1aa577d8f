"""EAP on a bridge: TransformerLens's own edge scores, sign and endpoint accounted for."""

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformers import GPT2Config, GPT2LMHeadModel

from mechinterp.core import Batch, Pair, UnsupportedError
from mechinterp.models import ModelConfig, Transformer, from_hf, to_bridge
from mechinterp.patching import estimate_edges
from mechinterp.patching.interpolation import ESTIMATES

VOCAB, SEQ = 50, 7


@pytest.fixture(scope="module")
def both():
    """One model as a bridge and as a `Transformer`; the bridge is built last, since it wraps the modules in place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCAB, n_positions=12, bos_token_id=0)
        model = GPT2LMHeadModel(settings)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(5)
    ours = from_hf(model)
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config).eval(), ours


@pytest.fixture(scope="module")
def gpt2(both):
    return both[0]


@pytest.fixture(scope="module")
def tokens():
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(VOCAB, (1, SEQ), generator=draw) for _ in range(2)]


def a_pair(clean, corrupted):
    right = torch.full_like(clean, 3)
    scored = torch.zeros_like(clean, dtype=torch.bool)
    scored[:, -1] = True
    return Pair(*(Batch(inputs, right, scored, right + 1) for inputs in (clean, corrupted)))


def name(node):
    """TransformerLens's node under our name."""
    head = f"L{node.layer}.H{node.head}"
    named = {"embed": "embed", "attn_head_out": head, "mlp_out": f"L{node.layer}.mlp", "mlp_in": f"L{node.layer}.mlp"}
    return named.get(node.kind) or ("logits" if node.kind == "logits" else f"{head}.{node.kind[0]}")


def test_edge_scores_are_transformer_lenss(gpt2, tokens):
    clean, corrupted = tokens
    found = attribution_patch(
        gpt2,
        clean,
        corrupted,
        lambda logits: logits[0, -1, 3] - logits[0, -1, 4],
        config=EdgeAttributionConfig(granularity="edge"),
    )
    theirs: dict[str, float] = {}
    for (writer, reader), score in found.edge_scores.items():
        key = f"{name(writer)}->{name(reader)}"
        theirs[key] = theirs.get(key, 0.0) + score
    # They take the gradient at the corrupted run and point to the clean one: ours with the runs exchanged, negated.
    ours = -estimate_edges(gpt2, a_pair(corrupted, clean), method="eap", inputs="split")["effect"].sel(example=0)
    assert len(theirs) == sum(not edge.startswith("pos") for edge in ours["edge"].values)
    actual = np.array([float(ours.sel(edge=edge)) for edge in theirs])
    np.testing.assert_allclose(actual, np.array(list(theirs.values())), rtol=0, atol=1e-4)
    assert np.abs(actual).max() > 0.1


@pytest.mark.parametrize("method", ESTIMATES)
def test_a_bridge_and_its_conversion_have_the_same_estimates(both, tokens, method):
    theirs, mine = (
        estimate_edges(model, a_pair(*tokens), method=method, steps=3, inputs="split")["effect"] for model in both
    )
    assert list(theirs["edge"].values) == list(mine["edge"].values)
    np.testing.assert_allclose(theirs.values, mine.values, rtol=0, atol=1e-4 * np.abs(mine.values).max())


def test_the_bridges_switches_are_as_they_were(gpt2, tokens):
    flags = ("use_attn_in", "use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
    before = [bool(getattr(gpt2.cfg, flag, False)) for flag in flags]

    def fails(output, batch, reference=None):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        estimate_edges(gpt2, a_pair(*tokens), metric=fails)
    estimate_edges(gpt2, a_pair(*tokens), method="eap-ig", steps=2)
    assert [bool(getattr(gpt2.cfg, flag, False)) for flag in flags] == before
    assert not any(point._forward_hooks for point in gpt2.hook_dict.values())


def test_what_has_no_edges_is_refused(gpt2, tokens):
    native = to_bridge(Transformer(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=VOCAB, n_ctx=SEQ)))
    with pytest.raises(UnsupportedError, match="this bridge cannot use"):
        estimate_edges(native, a_pair(*tokens))
    with pytest.raises(UnsupportedError, match="not a Linear"):
        estimate_edges(torch.nn.Linear(2, 2), a_pair(*tokens))
    with pytest.raises(UnsupportedError, match="ablation='zero'"):
        estimate_edges(gpt2, a_pair(*tokens), ablation="zero")
