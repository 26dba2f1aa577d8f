"""Fourier structure of modular addition: which frequencies carry the logits, and what is left with or without them.

Most of it works on a model's logits over the whole table, `[a, b, answer]`, all three of the same size p. Of these
p * p * p numbers, what is the same for all answers says nothing (the softmax ignores it), and what is the same for all
inputs is a bias; the variance that is shared out below is that of the rest. Neurons and embeddings have their own.

Source: Nanda et al. 2023. A model that adds writes cos and sin of w (a + b) into its logits for a few frequencies
w = 2 pi k / p, k from 1 to (p - 1) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.core import ConfigError, ShapeError, Site, UnsupportedError
from mechinterp.models import Transformer

Table = Float[Tensor, "a b answer"]


def sum_spectrum(logits: Table) -> Float[Tensor, " frequency"]:
    """Share of the logits' variance in cos and sin of w (a + b), by frequency.

    Args:
        logits: Of every pair of residues, `[a, b, answer]`.

    Returns:
        Entry k - 1 is frequency k. The entries sum to 1 if the logits depend on a + b alone; random logits give each
        about 2 / (p * p - 1). NaN where the logits do not vary.

    Raises:
        ShapeError: If the table is not p x p x p for an odd p.
    """
    varying = _varying(logits)
    return _sum_parts(varying).square().sum((0, 2)) / varying.square().sum()


def key_frequencies(logits: Table, threshold: float = 0.02) -> list[int]:
    """Frequencies whose cos and sin of w (a + b) hold more than `threshold` of the logits' variance, ascending.

    Raises:
        ShapeError: If the table is not p x p x p for an odd p.
    """
    return [int(k) + 1 for k in (sum_spectrum(logits) > threshold).nonzero().flatten()]


def restricted_logits(logits: Table, frequencies: Sequence[int]) -> Table:
    """Only what these frequencies of a + b say, and each answer's mean: how good is the circuit alone.

    Args:
        logits: Of every pair of residues, `[a, b, answer]`.
        frequencies: For progress through training, the key frequencies of the final model.

    Raises:
        ShapeError: If the table is not p x p x p for an odd p.
        ConfigError: If a frequency is not in 1 .. (p - 1) / 2.

    Source: Nanda et al. 2023, restricted loss. As there, the mean logits are kept.
    """
    wide = logits.double()
    return (wide.mean((0, 1)) + _in_frequencies(logits, frequencies)).to(logits)


def excluded_logits(logits: Table, frequencies: Sequence[int]) -> Table:
    """All but what these frequencies of a + b say: how good is the model without the circuit.

    Arguments and errors as in `restricted_logits`.

    Source: Nanda et al. 2023, excluded loss.
    """
    return (logits.double() - _in_frequencies(logits, frequencies)).to(logits)


def neuron_spectrum(activations: Float[Tensor, "a b neuron"]) -> Float[Tensor, "frequency neuron"]:
    """Share of each neuron's variance over the table that waves of one frequency explain.

    A frequency's waves are cos and sin of w a, those of w b, and the four products of one with another: all that a
    neuron can make of one pair of circles up to second degree.

    Args:
        activations: Of every pair of residues.

    Returns:
        Row k - 1 is frequency k. What no single frequency explains (say, a product of two) is in no row, so a column
        sums to 1 at most; NaN where a neuron does not vary.

    Raises:
        ShapeError: If the table is not p x p for an odd p.

    Source: Nanda et al. 2023, section 4.3.
    """
    p = len(activations)
    if activations.shape[1] != p or p % 2 == 0:
        raise ShapeError(
            f"activations of a whole table are [p, p, neuron] with an odd p, got {list(activations.shape)}"
        )
    basis = _basis(p)
    power = torch.einsum("ia,jb,abn->ijn", basis, basis, activations.double()).square()
    constant = power[0, 0].clone()
    power[0, 0] = 0
    alone = power[0, 1:] + power[1:, 0]
    # cos and sin of a frequency follow each other.
    both = reduce(power[1:, 1:], "(f_a wave_a) (f_b wave_b) neuron -> f_a f_b neuron", "sum", wave_a=2, wave_b=2)
    waves = reduce(alone, "(frequency wave) neuron -> frequency neuron", "sum", wave=2) + both.diagonal().T
    varying = power.sum((0, 1))
    # What rounding leaves of a constant in single precision is no variance.
    return waves / torch.where(varying > 1e-12 * constant, varying, math.nan)


def embedding_spectrum(embedding: Float[Tensor, "residue d_model"]) -> Float[Tensor, " frequency"]:
    """Share of the embedding's variance over residues in cos and sin of each frequency.

    Args:
        embedding: One row per residue.

    Returns:
        Entry k - 1 is frequency k; they sum to 1.

    Raises:
        ShapeError: If the number of residues is even.
    """
    power = (_basis(_odd(embedding)) @ embedding.double()).square().sum(1)[1:]
    return reduce(power, "(frequency wave) -> frequency", "sum", wave=2) / power.sum()


def restricted_embedding(
    embedding: Float[Tensor, "residue d_model"], frequencies: Sequence[int]
) -> Float[Tensor, "residue d_model"]:
    """Only the waves of these frequencies over the residues, and the mean: what a circuit of them alone would read.

    Args:
        embedding: One row per residue.
        frequencies: Those to keep.

    Raises:
        ShapeError: If the number of residues is even.
        ConfigError: If a frequency is not in 1 .. (p - 1) / 2.
    """
    p = _odd(embedding)
    _check_frequencies(frequencies, p)
    waves = _basis(p)[[0, *(row for k in frequencies for row in (2 * k - 1, 2 * k))]]
    return (waves.T @ (waves @ embedding.double())).to(embedding)


def gradient_symmetricity(
    model: Transformer, inputs: Int[Tensor, "batch 3"], answers: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Cosine between the gradients of an answer's logit with respect to the embeddings of a and of b.

    Near 1 where the model adds the two embeddings first and asks nothing of their difference ("pizza"); low where it
    multiplies them ("clock").

    Args:
        model: Reads `[a, b, =]` and answers at `=`.
        inputs: Tokens; the paper takes 100 at random.
        answers: For each example the answer whose logit is looked at; random ones in the paper.

    Raises:
        UnsupportedError: If the model does not read tokens and write logits.
        ConfigError: If an answer is no output token.

    Source: Zhong et al. 2023 (published: 0.33 for clock models, 0.99 for pizza models).
    """
    config = model.config
    if (config.inputs, config.outputs) != ("tokens", "logits"):
        raise UnsupportedError(
            f"gradients of answers need inputs='tokens' and outputs='logits', this model has inputs='{config.inputs}' "
            f"and outputs='{config.outputs}'"
        )
    if not ((answers >= 0) & (answers < config.features_out)).all():
        raise ConfigError(f"answers are output tokens, 0 to {config.features_out - 1}; got {answers.unique().tolist()}")
    embeddings: list[Tensor] = []

    def read(embedded: Tensor, hook: object) -> Tensor:
        embeddings.append(embedded.detach().requires_grad_())
        return embeddings[0]

    with torch.enable_grad():
        logits = model.run_with_hooks(inputs, fwd_hooks=[(Site("embed").hook, read)])
        chosen = logits[:, -1].gather(1, answers[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, embeddings[0])
    return torch.cosine_similarity(gradient[:, 0], gradient[:, 1], dim=-1)


def _in_frequencies(logits: Table, frequencies: Sequence[int]) -> Table:
    """The part of the logits in cos and sin of w (a + b)."""
    varying = _varying(logits)
    _check_frequencies(frequencies, len(logits))
    waves = _waves(len(logits))[:, [k - 1 for k in frequencies]]
    coefficients = _sum_parts(varying)[:, [k - 1 for k in frequencies]]
    return torch.einsum("skab,skc->abc", waves, coefficients)


def _odd(embedding: Tensor) -> int:
    if len(embedding) % 2 == 0:
        raise ShapeError(f"an embedding of residues has an odd number of rows, got {len(embedding)}")
    return len(embedding)


def _check_frequencies(frequencies: Sequence[int], p: int) -> None:
    wrong = [k for k in frequencies if not 1 <= k <= (p - 1) // 2]
    if wrong:
        raise ConfigError(f"no frequency {wrong[0]}: modulo {p} they are 1 to {(p - 1) // 2}")


def _basis(p: int) -> Float[Tensor, "wave residue"]:
    """Orthonormal waves over the residues: the constant, then cos and sin of each frequency."""
    residue = torch.arange(p, dtype=torch.float64)
    frequency = torch.arange(1, (p - 1) // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi / p * frequency[:, None] * residue
    waves = rearrange([angle.cos(), angle.sin()], "wave frequency residue -> (frequency wave) residue") * math.sqrt(
        2 / p
    )
    return torch.cat([torch.full((1, p), 1 / math.sqrt(p), dtype=torch.float64), waves])


def _sum_parts(varying: Table) -> Float[Tensor, "2 frequency answer"]:
    """Coefficients on the unit vectors along cos and sin of w (a + b)."""
    return torch.einsum("skab,abc->skc", _waves(len(varying)), varying)


def _waves(p: int) -> Float[Tensor, "2 frequency a b"]:
    """Waves cos and sin of w (a + b), each of norm 1 over the table."""
    residue = torch.arange(p, dtype=torch.float64)
    frequency = torch.arange(1, (p - 1) // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi / p * frequency[:, None, None] * (residue[:, None] + residue)
    return torch.stack([angle.cos(), angle.sin()]) * math.sqrt(2) / p


def _varying(logits: Table) -> Table:
    """In double precision, without each input's mean over answers and each answer's mean over inputs."""
    if len({*logits.shape}) != 1 or len(logits) % 2 == 0:
        raise ShapeError(f"logits of a whole table are [p, p, p] with an odd p, got {list(logits.shape)}")
    wide = logits.double()
    wide = wide - wide.mean(-1, keepdim=True)
    return wide - wide.mean((0, 1), keepdim=True)
