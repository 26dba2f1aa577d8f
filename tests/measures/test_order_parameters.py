"""Order parameters against answers known by hand, and latents that are read, used, both or neither."""

import numpy as np
import pytest
import torch

from mechinterp.attribution import qk_effective_rank
from mechinterp.core import Batch, ConfigError, derive_seed, generator
from mechinterp.known import induction_model
from mechinterp.measures import measure
from mechinterp.models import ModelConfig, Transformer
from mechinterp.tasks import Induction, Task
from mechinterp.timeline import Memory, trace
from mechinterp.training import train

TASK = Induction(vocab=24, seq_len=20, segment=5, repeats=2)


def model(**settings) -> Transformer:
    return Transformer(
        ModelConfig(**{"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": 24, "n_ctx": 20} | settings)
    )


class Later(torch.nn.Module):
    """Gives every token the same chance on early positions, and the right one probability 1/2 from position 10 on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*inputs.shape, 8)
        # Of `Echo`, the right answer is the input; odds of 7 to 7 against the other seven together.
        logits[:, 10:].scatter_(-1, inputs[:, 10:, None], float(np.log(7)))
        return logits


class Echo(Task):
    """Say the token again."""

    name = "echo-for-order-parameters"

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        tokens = torch.randint(8, (batch, 20), generator=generator(seed, self.name))
        return Batch(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))


def test_the_in_context_score_is_the_late_loss_minus_the_early():
    found = measure("in_context_score", examples=6)(Later(), Echo())
    assert found.dims == ("example",)
    assert np.allclose(found, np.log(2) - np.log(8), atol=1e-6)
    half = measure("in_context_score", examples=6, share=0.5)(Later(), Echo())
    assert np.allclose(half, np.log(2) - np.log(8), atol=1e-6)
    # Early and late positions alike for a model without context.
    assert abs(float(measure("in_context_score", examples=256)(model(), TASK).mean())) < 0.1
    assert np.isfinite(measure("in_context_score", examples=4, where="all")(model(), TASK)).all()
    with pytest.raises(ConfigError, match=r"share=0\.7"):
        measure("in_context_score", share=0.7)(Later(), Echo())
    with pytest.raises(ConfigError, match="no where 'scord'"):
        measure("in_context_score", where="scord")(Later(), Echo())


def test_hidden_states_are_alike_where_nothing_but_a_common_vector_is_written():
    same = model(normalization="none")
    with torch.no_grad():
        same.W_E[:], same.W_pos[:] = 1.0, 0.0
        for block in same.blocks:
            block.attn.W_O[:] = 0.0
    found = measure("hidden_similarity", examples=5)(same, TASK)
    assert found.dims == ("layer", "example") and np.allclose(found, 1, atol=1e-6)
    plain = model()
    by_hand = measure("hidden_similarity", examples=3)(plain, TASK, 4)
    batch = TASK.batch(3, derive_seed(4, "measure", "loss"))
    _, cache = plain.run_with_cache(batch.inputs)
    stream = torch.nn.functional.normalize(cache["blocks.1.hook_resid_post"], dim=-1)
    cosines = torch.einsum("bid,bjd->bij", stream, stream)
    off = ~torch.eye(20, dtype=torch.bool)
    assert np.allclose(by_hand[1], cosines[:, off].mean(1).detach(), atol=1e-5)


def test_the_effective_rank_of_known_matrices():
    one = model(normalization="none")
    with torch.no_grad():
        for block in one.blocks:
            block.attn.W_Q[:], block.attn.W_K[:] = 0.0, 0.0
            for head in range(2):
                eye = torch.eye(16)[:, :8]
                block.attn.W_Q[head] = eye if head else eye * (torch.arange(8) < 1)
                block.attn.W_K[head] = eye
    found = qk_effective_rank(one)
    assert np.allclose(found, [[1, 8], [1, 8]])
    assert np.allclose(measure("qk_rank")(one, TASK), found)
    random = qk_effective_rank(model(d_model=64))
    assert (random > 20).all() and (random < 32).all()


def test_a_latent_that_the_circuit_needs_can_be_read_and_is_used():
    """The hand-made model writes the previous token in layer 0, and copies by it."""
    hand = induction_model(vocab=24, seq_len=20, dtype=torch.float64)
    found = measure("latent_use", examples=64)(hand.model, TASK).mean("example").sel(latent="previous_token")
    first = found[:, 0]
    score, shuffled, read, effect, random, used = (float(value) for value in first)
    assert score > 0.9 and shuffled < 0.2 and read == pytest.approx(score - shuffled)
    assert used == pytest.approx(effect - random) and used > 0.5


def test_an_untrained_model_uses_nothing():
    plain = Transformer(ModelConfig(n_layers=2, n_heads=2, d_model=64, d_vocab=24, n_ctx=20))
    each = measure("latent_use", examples=128)(plain, TASK).sel(evidence="used")
    mean, error = each.mean("example"), each.std("example") / 64**0.5
    assert (np.abs(mean) < 0.1).all()
    assert np.isfinite(error).any()


def test_along_training_it_is_cheap_and_shares_its_runs(tmp_path):
    run = train(
        TASK, {"n_layers": 1, "n_heads": 2, "d_model": 16}, dict(steps=8, batch_size=4, warmup=0), out=tmp_path / "run"
    )
    names = ("loss", "latent_use", "ridge_probes", "hidden_similarity", "in_context_score", "qk_rank")
    line = trace(run, [measure(one, **({} if one == "qk_rank" else {"examples": 32})) for one in names], store=Memory())
    both = line["ridge_probes"].sel(estimate=["score", "shuffled"]).values
    assert np.array_equal(line["latent_use"].sel(evidence=["score", "shuffled"]).values, both, equal_nan=True)
