"""Markov chains: that the chains are Dirichlet and the walks theirs, what predictors are worth, what a pair changes."""

from itertools import pairwise

import pytest
import torch

from mechinterp.core import Batch, ConfigError
from mechinterp.tasks import MarkovChains, get
from mechinterp.tasks.markov import successors

every_corruption = pytest.mark.parametrize("corruption", MarkovChains.corruptions)


def divergence(task: MarkovChains, predictor: str, batch: Batch) -> float:
    """Mean KL(chain || predictor) in nats."""
    oracle, other = (task.predictors()[name](batch) for name in ("oracle", predictor))
    return float((oracle.exp() * (oracle - other)).sum(-1).mean())


def follows(tokens: list[int], state: int, states: int) -> list[int]:
    """How often each state followed `state`, counted by hand."""
    counts = [0] * states
    for here, ahead in pairwise(tokens):
        counts[ahead] += here == state
    return counts


@pytest.mark.parametrize("states", [3, 5])
def test_rows_are_dirichlet(states: int):
    """Mean 1/k, variance (k-1)/(k^2 (k+1)), covariance -1/(k^2 (k+1)), P(p > x) = (1-x)^(k-1)."""
    chains = MarkovChains(states=states)._draw_chains(20_000, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(chains.sum(-1), torch.ones(20_000, states, dtype=torch.float64), atol=1e-6, rtol=0)
    unit = 1 / (states**2 * (states + 1))
    moments = torch.cov(chains.flatten(0, 1).T)
    expected = torch.full((states, states), -unit, dtype=torch.float64).fill_diagonal_((states - 1) * unit)
    torch.testing.assert_close(moments, expected, atol=0.001, rtol=0)
    torch.testing.assert_close(chains.mean((0, 1)), torch.full((states,), 1 / states).double(), atol=0.003, rtol=0)
    assert float((chains > 0.5).double().mean()) == pytest.approx(0.5 ** (states - 1), abs=0.005)
    assert abs(float(torch.corrcoef(chains[:, :2, 0].T)[0, 1])) < 0.03  # rows are independent


def test_doubly_stochastic_chains_are():
    chains = MarkovChains(doubly_stochastic=True)._draw_chains(2000, torch.Generator().manual_seed(0))
    for axis in (1, 2):
        torch.testing.assert_close(chains.sum(axis), torch.ones(2000, 3))
    # Two of six Dirichlet(1) weights make an entry: Beta(2, 4), of variance 8 / 252.
    assert float(chains.var()) == pytest.approx(8 / 252, abs=0.002)


def test_walks_go_as_their_chain_says():
    """Over many long walks, transitions are as frequent as the latents claim, step by step and not only on average."""
    task = MarkovChains(seq_len=400)
    batch = task.batch(200, 0)
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:]) and bool(batch.scored.all())
    chance = task.predictors()["oracle"](batch).exp()
    torch.testing.assert_close(chance.sum(-1), torch.ones(200, 400))
    went = torch.nn.functional.one_hot(batch.targets, 3)
    deviation = (went - chance) / (chance * (1 - chance)).sqrt()
    assert float(deviation.mean()) == pytest.approx(0, abs=0.01)
    assert float((went - chance).square().mean()) == pytest.approx(float((chance * (1 - chance)).mean()), abs=0.002)
    # Innovations of successive steps are uncorrelated, here and at each distance the composition doubles over.
    surprise = (went - chance)[..., 0]
    for distance in (1, 2, 4, 64):
        assert abs(float((surprise[:, distance:] * surprise[:, :-distance]).mean())) < 0.002
    first = torch.bincount(MarkovChains(seq_len=4).batch(9000, 1).inputs[:, 0], minlength=3)
    assert float(((first - 3000.0) ** 2 / 3000).sum()) < 13.8  # chi squared, p = .001


def test_predictors_by_hand():
    task = MarkovChains(seq_len=12)
    inputs = torch.tensor([[0, 1, 2, 1, 1, 0, 1, 2, 2, 0, 2, 0]])
    batch = Batch(inputs, inputs, inputs >= 0)
    found = {name: task.predictors()[name](batch).exp()[0] for name in ("uniform", "unigram", "bigram")}
    torch.testing.assert_close(found["bigram"][11], torch.tensor([1 / 6, 3 / 6, 2 / 6]))  # the class draws this one
    torch.testing.assert_close(found["bigram"][3], torch.tensor([1 / 4, 1 / 4, 2 / 4]))
    torch.testing.assert_close(found["unigram"][3], torch.tensor([2 / 7, 3 / 7, 2 / 7]))
    torch.testing.assert_close(found["uniform"], torch.full((12, 3), 1 / 3))


def test_order_of_the_predictors_and_bayes_optimality():
    task = MarkovChains()
    batch = task.batch(1000, 5)
    found = {name: divergence(task, name, batch) for name in task.predictors()}
    assert found["oracle"] == 0
    assert found["bigram"] == pytest.approx(0.0675, abs=0.003)
    assert found["unigram"] == pytest.approx(0.192, abs=0.008)
    assert found["uniform"] == pytest.approx(
        0.28, abs=0.012
    )  # log 3 minus the mean entropy 5/6 of Dirichlet(1) is .265
    # Any other smoothing of the same counts is worse.
    raw, oracle = successors(batch.inputs, 3), task.predictors()["oracle"](batch)
    for smoothing in (0.7, 1.4):
        other = ((raw + smoothing) / (raw.sum(-1, keepdim=True) + 3 * smoothing)).log()
        assert float((oracle.exp() * (oracle - other)).sum(-1).mean()) > found["bigram"]


def test_unigrams_are_worth_nothing_in_doubly_stochastic_chains():
    task = MarkovChains(doubly_stochastic=True)
    batch = task.batch(500, 5)
    assert divergence(task, "unigram", batch) > divergence(task, "uniform", batch) > divergence(task, "bigram", batch)


@every_corruption
def test_pairs_change_the_most_frequent_successor_and_nothing_that_unigrams_see(corruption: str):
    task = MarkovChains()
    pair = task.pair(64, 2, corruption)
    clean, twin = pair.clean, pair.corrupted
    assert clean.wrong is not None and twin.wrong is not None and len(pair) == 64
    assert clean.scored.nonzero()[:, 1].tolist() == [99] * 64 == clean.role("query").tolist()
    assert torch.equal(clean.inputs[:, -1], twin.inputs[:, -1])
    for example in range(64):
        rows = clean.inputs[example].tolist(), twin.inputs[example].tolist()
        assert rows[0] != rows[1] and sorted(rows[0]) == sorted(rows[1])
        query = rows[0][-1]
        answers = []
        for row, batch in zip(rows, (clean, twin), strict=True):
            counts = follows(row, query, 3)
            answers.append(counts.index(max(counts)))
            assert counts.count(max(counts)) == 1 and answers[-1] != query
            assert int(batch.targets[example, -1]) == answers[-1]
        assert answers[0] != answers[1]
        assert (int(clean.wrong[example, -1]), int(twin.wrong[example, -1])) == (answers[1], answers[0])
        if corruption == "successor":
            assert [t == query for t in rows[0]] == [t == query for t in rows[1]]


@every_corruption
def test_roles_of_pairs(corruption: str):
    pair = MarkovChains().pair(64, 4, corruption)
    clean, twin, row = pair.clean, pair.corrupted, torch.arange(64)
    assert clean.wrong is not None
    state, successor = clean.role("last_state"), clean.role("last_successor")
    assert torch.equal(successor, state + 1) and int(state.min()) >= 0
    assert torch.equal(clean.inputs[row, state], clean.inputs[:, -1])
    assert torch.equal(clean.inputs[row, successor], clean.targets[:, -1])
    if corruption == "successor":
        assert torch.equal(twin.inputs[row, successor], clean.wrong[:, -1])
    else:
        assert bool((twin.inputs[row, state] != twin.inputs[:, -1]).all())
        other, after = clean.role("other_state"), clean.role("other_successor")
        assert torch.equal(twin.inputs[row, other], twin.inputs[:, -1]) and torch.equal(after, other + 1)
        assert torch.equal(twin.inputs[row, after], twin.targets[:, -1])


@every_corruption
def test_the_bigram_changes_its_mind_on_every_pair_and_the_unigram_on_none(corruption: str):
    task = MarkovChains()
    pair = task.pair(64, 0, corruption)
    bigram, unigram = task.predictors()["bigram"], task.predictors()["unigram"]
    for batch in (pair.clean, pair.corrupted):
        assert torch.equal(bigram(batch)[:, -1].argmax(-1), batch.targets[:, -1])
    torch.testing.assert_close(unigram(pair.clean)[:, -1], unigram(pair.corrupted)[:, -1])
    assert not bool((task.batch(64, 0).inputs[:, None] == pair.clean.inputs[None]).all(-1).any())


def test_latents():
    task = MarkovChains(states=4)
    batch = task.batch(8, 3)
    assert set(batch.latents) == set(task.latents) == {"previous_token", "to_0", "to_1", "to_2", "to_3"}
    assert torch.equal(batch.latents["previous_token"][:, 1:], batch.inputs[:, :-1])
    assert batch.latents["previous_token"][:, 0].tolist() == [-1] * 8
    # The same state has the same row wherever it stands.
    same = batch.inputs[:, :1] == batch.inputs
    assert torch.equal(batch.latents["to_2"][same], batch.latents["to_2"][:, :1].expand(-1, 100)[same])
    assert bool(task.pair(4).corrupted.latents["to_0"].isnan().all())


def test_same_seed_same_batch():
    task = MarkovChains()
    assert torch.equal(task.batch(4, 1).inputs, task.batch(4, 1).inputs)
    assert not torch.equal(task.batch(4, 1).inputs, task.batch(4, 2).inputs)
    assert get("markov", states=2).batch(2).inputs.shape == (2, 100)


def test_drawing_is_fast(draws_per_step):
    """Seventeen times what training consumes; shape checks, which only tests have, take some of it."""
    assert draws_per_step(MarkovChains()) > 10


def test_settings_without_meaning():
    with pytest.raises(ConfigError, match="states=7: doubly stochastic"):
        MarkovChains(states=7, doubly_stochastic=True)
    with pytest.raises(ConfigError, match="needs states=3 or more"):
        MarkovChains(states=2).pair(4)
    with pytest.raises(ConfigError, match=r"no corruption 'matched'\. Did you mean 'match'\?"):
        MarkovChains().pair(4, 0, "matched")
    with pytest.raises(ConfigError, match="make them longer"):
        MarkovChains(seq_len=4, states=60).pair(64)
