"""Resuming from every stage, at any choice of positions, is the whole hooked forward pass."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechinterp.core import Site, generator
from mechinterp.interventions import BaseRun, Start, activations, resume, run_edited, take
from mechinterp.models import Positions

PATCHES, BATCH, SEQ = 2, 4, 9


def changed_rows(cover: str, first: int, draw: torch.Generator) -> torch.Tensor:
    """Positions that a patch changes, `[patch, batch, row]` or `[row]`."""
    if cover == "stretch":
        return torch.arange(first, SEQ)
    shape = (PATCHES, BATCH, SEQ)
    return torch.rand(shape, generator=draw).argsort(-1)[..., : {"one row": 1, "three rows": 3}[cover]]


@given(
    st.data(),
    st.sampled_from(["pre", "mid"]),
    st.sampled_from(["stretch", "one row", "three rows"]),
    st.integers(0, SEQ - 1),
    st.booleans(),
)
def test_resuming_with_a_changed_stream_is_a_hooked_run(
    make_model, make_pair, architectures, data, stage, cover, first, one
):
    settings = data.draw(architectures)
    model, pair = make_model(**settings), make_pair(one_scored=one, pad=settings["pad_token"])
    _, scored, _ = pair.clean.at_scored()
    base = BaseRun.of(model, activations(model, pair.clean.inputs), scored)
    draw = generator(first, "rows")
    rows = changed_rows(cover, first, draw)
    at = base.acts.where.since(first) if cover == "stretch" else base.acts.where.pick(rows)
    for layer in range(model.config.n_layers + (stage == "pre")):
        stream = base.stream(layer, stage).expand(PATCHES, -1, -1, -1).clone()
        noise = torch.randn(*stream.shape[:2], rows.shape[-1], 16, generator=draw, dtype=stream.dtype)
        index = rows.expand(PATCHES, BATCH, -1)[..., None].expand_as(noise)
        stream.scatter_add_(-2, index, noise)
        hook = hook_of(model, layer, stage)
        expected = torch.stack(
            [take(run_edited(model, pair.clean.inputs, {hook: lambda _, one=one: one}), scored) for one in stream]
        )
        output = resume(base, Start(layer, stage, stream.gather(-2, index), at))
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


def hook_of(model, layer: int, stage: str) -> str:
    """The hook point of a stream; without MLPs the middle of a layer is its end."""
    if stage == "pre":
        return Site("resid_pre", layer).hook if layer < model.config.n_layers else Site("resid_post", layer - 1).hook
    return Site("resid_mid" if model.config.d_mlp else "resid_post", layer).hook


@given(st.data(), st.booleans())
def test_only_what_is_needed_is_enough(make_model, make_pair, architectures, data, one):
    """After the last attention the scored positions alone decide the output."""
    settings = data.draw(architectures)
    model, pair = make_model(**settings), make_pair(one_scored=one, pad=settings["pad_token"])
    _, scored, _ = pair.clean.at_scored()
    base = BaseRun.of(model, activations(model, pair.clean.inputs), scored)
    last = model.config.n_layers - 1
    for layer, stage in ((last, "mid"), (last + 1, "pre")):
        at = base.needed(layer, stage)
        assert at is base.scored
        output = resume(base, Start(layer, stage, at.take(base.stream(layer, stage))[None], at))
        torch.testing.assert_close(output[0], base.output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("positions", ["learned", "rotary", "shortformer"])
@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_each_examples_own_queries_attend_as_in_the_whole_sequence(make_model, make_pair, positions, attention):
    model = make_model(positions=positions, attention=attention, n_layers=1)
    acts, block = activations(model, make_pair().clean.inputs), model.blocks[0]
    own = acts.where.pick(torch.tensor([[0, 3], [8, 1], [5, 5 - 1], [2, 7]]))
    (q,) = block.attn.project("q", block.ln1(own.take(acts.resid_pre[0])), own)
    torch.testing.assert_close(q, own.take(acts.q[0], 2), rtol=1e-9, atol=1e-9)
    z = block.attn.attend(q, acts.k[0], acts.v[0], own, acts.where)
    torch.testing.assert_close(z, own.take(acts.z[0], 2), rtol=1e-9, atol=1e-9)


def test_splicing_by_hand():
    base = torch.arange(5.0)[None, :, None]
    whole, scored = Positions.whole(5), Positions(torch.tensor([[4, 1]]))
    rows, values = Positions(torch.tensor([[[2, 4]]])), torch.tensor([[[[20.0], [40.0]]]])
    tail = torch.tensor([[[[30.0], [40.0]]]])
    cases = [
        (rows, values, whole, [0, 1, 20, 3, 40]),
        (rows, values, whole.since(2), [20, 3, 40]),
        (rows, values, scored, [40, 1]),
        (whole.since(3), tail, whole, [0, 1, 2, 30, 40]),
        (whole.since(3), tail, whole.since(1), [1, 2, 30, 40]),
        (whole.since(3), tail, scored, [40, 1]),
        (whole, base[None] * 10, scored, [40, 10]),
    ]
    for at, given_values, wanted, expected in cases:
        assert at.splice(given_values, base, wanted).flatten().tolist() == expected
    torch.testing.assert_close(rows.take(base), torch.tensor([[[[2.0], [4.0]]]]))
    shifted = Positions.whole(3, added=torch.eye(3)).since(1)
    assert shifted.added is not None and shifted.added.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert shifted.table(torch.tensor([[7], [8], [9]])).tolist() == [[8], [9]]
