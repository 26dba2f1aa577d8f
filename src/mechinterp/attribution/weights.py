"""Circuits read off the weights: what a head looks for (QK), what it writes (OV), whether it copies.

Everything here ignores biases and positions and looks at the direct path from embedding to unembedding. A norm's gain
and its centring are folded into the matrices that read through it; its scale (one positive number per position) has
no place in a weight matrix and is left out. Without a norm the matrices are the plain products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechinterp.core import UnsupportedError, generator, labelled
from mechinterp.models import Transformer


def qk_circuit(model: Transformer) -> xr.Dataset:
    """How strongly each token, as query, asks for each token as key: `W_E W_Q W_K^T W_E^T` of every head.

    Not divided by sqrt(d_head) (attribute `scale` has the factor that attention puts on it). With rotary positions
    this is the circuit at distance 0.

    Returns:
        `circuit` [layer, head, query, key] (query and key count tokens here), `eigenvalue_real` and `eigenvalue_imag`
        [layer, head, feature] (largest magnitude first), `singular_value` [layer, head, feature], and the directions
        over tokens `left` [layer, head, feature, query] and `right` [layer, head, feature, key].

    Raises:
        UnsupportedError: If the model does not read tokens.

    Source: Elhage et al. 2021.
    """
    weights = token_weights(model)
    left, right = weights.embed @ weights.query, weights.embed @ weights.key
    scale = model.config.attn_scale / model.config.d_head**0.5
    return _spectrum(left, right.mT, ("query", "key"), formula="W_E W_Q W_K^T W_E^T", scale=scale)


def ov_circuit(model: Transformer) -> xr.Dataset:
    """What attending to each token does to each logit: `W_E W_V W_O W_U` of every head.

    Returns:
        `circuit` [layer, head, token, logit], `eigenvalue_real` and `eigenvalue_imag` [layer, head, feature] (largest
        magnitude first; only where inputs and outputs share one vocabulary), `singular_value` [layer, head, feature],
        and the directions `left` [layer, head, feature, token] and `right` [layer, head, feature, logit].

    Raises:
        UnsupportedError: If the model does not read tokens and write logits.

    Source: Elhage et al. 2021.
    """
    weights = token_weights(model)
    left, right = weights.embed @ weights.value, weights.output @ weights.unembed
    return _spectrum(left, right, ("token", "logit"), formula="W_E W_V W_O W_U")


def copying_scores(model: Transformer, permutations: int = 200, seed: int = 0) -> xr.Dataset:
    """Whether each head's OV circuit raises the logit of the token it attends to, by eigenvalues and by rank.

    Args:
        model: Reads and writes one vocabulary.
        permutations: Random relabellings of the output tokens that make the null of the eigenvalue score.
        seed: Of the permutations.

    Returns:
        All with dimensions score, layer, head, `score` being:
        `eigenvalue`: `sum(Re l) / sum(|l|)` over the eigenvalues of `W_E W_OV W_U`, in [-1, 1].
        `rank`: `1 - 2 r / (V - 1)`, r the source token's mean rank (0 is best, ties share theirs) among the logits
        of its own row of `W_E W_OV W_U`; 1 where every token raises itself most.
        Variables: `copying`, and what a circuit blind to which token is which would get: `chance`, `null_sd`, `z`.
        By permutation for `eigenvalue`; in closed form for `rank` (a uniform rank: 0 exactly; its deviation
        treats tokens as independent).

    Raises:
        UnsupportedError: If inputs and outputs are not one vocabulary.

    Source: Elhage et al. 2021 (`eigenvalue`), Olsson et al. 2022 (`rank`: they rank on text; this ranks every token
    of the vocabulary once).
    """
    weights = token_weights(model)
    size = model.config.d_vocab
    if size is None or size != weights.unembed.shape[-1]:
        raise UnsupportedError(
            f"copying needs one vocabulary: {size} tokens go in, {weights.unembed.shape[-1]} come out"
        )
    left, right = weights.embed @ weights.value, weights.output @ weights.unembed
    score = torch.stack([_eigenvalue_score(left, right), _rank_score(left @ right)])
    null = torch.stack([_eigenvalue_score(left, right[..., order]) for order in _orders(size, permutations, seed)])
    chance, deviation = torch.zeros_like(score), torch.zeros_like(score)
    chance[0], deviation[0] = null.mean(0), null.std(0)
    deviation[1] = 2 / (size - 1) * ((size**2 - 1) / 12 / size) ** 0.5
    parts = {"copying": score, "chance": chance, "null_sd": deviation, "z": (score - chance) / deviation}
    coords = {"score": ["eigenvalue", "rank"]}
    arrays = {name: labelled(part, ["score", "layer", "head"], coords) for name, part in parts.items()}
    return xr.Dataset(arrays, attrs={"permutations": permutations, "seed": seed, **arrays["z"].attrs})


def qk_effective_rank(model: Transformer) -> xr.DataArray:
    """How many directions each head's QK matrix uses: the exponential of the entropy of its singular values' shares.

    In [1, d_head]: 1 if the head asks for one thing, d_head if all singular values are equal. Random weights of large
    d_model come near d_head, so along training its change from the first step counts. NaN for a head whose queries or
    keys are zero. Norms are folded in as in `qk_circuit`; biases are left out.

    Returns:
        Dimensions layer, head.

    Source: Roy & Vetterli 2007, "The effective rank".
    """
    weights = folded_weights(model)
    left, right = torch.linalg.qr(weights.query).R, torch.linalg.qr(weights.key).R
    values = torch.linalg.svdvals(left @ right.mT)  # those of W_Q W_K^T: Q of a QR decomposition has no say
    shares = values / values.sum(-1, keepdim=True)
    return labelled(torch.special.entr(shares).sum(-1).exp(), ["layer", "head"])


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Matrices of every head with the norms' gains and centring folded into those that read.

    Args:
        query: `[layer, head, d_model, d_head]`.
        key: `[layer, head, d_model, d_head]`.
        value: `[layer, head, d_model, d_head]`.
        output: `[layer, head, d_head, d_model]`.
        unembed: `[d_model, out]`.
        embed: `[tokens, d_model]`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    unembed: Tensor
    embed: Tensor


def token_weights(model: Transformer) -> HeadWeights:
    """The folded weights of a model that reads tokens and writes logits.

    Raises:
        UnsupportedError: If it reads vectors or writes values, or through hidden layers.
    """
    config = model.config
    if config.inputs != "tokens" or config.outputs != "logits":
        raise UnsupportedError(
            f"token circuits need inputs='tokens' and outputs='logits', this model has "
            f"inputs='{config.inputs}' and outputs='{config.outputs}'"
        )
    if config.readout_layers:
        raise UnsupportedError("token circuits end at the unembedding, and readout_layers > 0 lie before it")
    return folded_weights(model)


@torch.no_grad()
def folded_weights(model: Transformer) -> HeadWeights:
    """Weights with each norm folded into what reads through it, in double precision."""
    norms = [block.ln1 for block in model.blocks]

    def read(stacked: Tensor) -> Tensor:
        return torch.stack([fold_norm(norm, weight) for norm, weight in zip(norms, stacked.double(), strict=True)])  # type: ignore[arg-type]

    unembed = fold_norm(model.ln_final, model.W_U.double())
    return HeadWeights(
        read(model.W_Q), read(model.W_K), read(model.W_V), model.W_O.double(), unembed, model.W_E.detach().double()
    )


def fold_norm(norm: torch.nn.Module, weight: Float[Tensor, "... d_model out"]) -> Float[Tensor, "... d_model out"]:
    """A matrix that reads the unnormalised stream: the norm's gain, and for LN its centring, multiplied in."""
    gain = getattr(norm, "w", None)
    if gain is None:
        return weight
    scaled = gain.to(weight.dtype)[:, None] * weight
    return scaled if getattr(norm, "b", None) is None else centre(scaled)


def centre(weight: Float[Tensor, "... d_model out"]) -> Float[Tensor, "... d_model out"]:
    """A matrix that reads the stream after its mean over features was taken away."""
    return weight - weight.mean(-2, keepdim=True)


def _spectrum(left: Tensor, right: Tensor, dims: tuple[str, str], **attrs: str | float) -> xr.Dataset:
    """Product, eigenvalues and singular directions of `left @ right`, as many as its shortest axis allows."""
    lead = ["layer", "head"]
    a, b = dims
    parts = {"circuit": (left @ right, [*lead, a, b])}
    if left.shape[-2] == right.shape[-1]:
        values = _eigenvalues(left, right)
        values = values.gather(-1, values.abs().argsort(-1, descending=True))
        parts["eigenvalue_real"] = (values.real, [*lead, "feature"])
        parts["eigenvalue_imag"] = (values.imag, [*lead, "feature"])
    # Singular values through the short axis: left = Q1 R1, right^T = Q2 R2, and svd(R1 R2^T) is small.
    (q1, r1), (q2, r2) = torch.linalg.qr(left), torch.linalg.qr(right.mT)
    u, s, vt = torch.linalg.svd(r1 @ r2.mT, full_matrices=False)
    parts["singular_value"] = (s, [*lead, "feature"])
    parts["left"] = ((q1 @ u).mT, [*lead, "feature", a])
    parts["right"] = ((q2 @ vt.mT).mT, [*lead, "feature", b])
    arrays = {name: labelled(part, names) for name, (part, names) in parts.items()}
    return xr.Dataset(
        arrays, attrs={**attrs, "norm": "gain and centring folded, scale left out", **arrays["circuit"].attrs}
    )


def _eigenvalue_score(left: Tensor, right: Tensor) -> Tensor:
    """`sum(Re l) / sum(|l|)`."""
    values = _eigenvalues(left, right)
    return values.real.sum(-1) / values.abs().sum(-1)


def _eigenvalues(left: Tensor, right: Tensor) -> Tensor:
    """The eigenvalues of `left @ right` that can differ from zero: all of it, or of the smaller `right @ left`."""
    return torch.linalg.eigvals(right @ left if left.shape[-1] < left.shape[-2] else left @ right)


def _rank_score(circuit: Tensor) -> Tensor:
    own = circuit.diagonal(dim1=-2, dim2=-1)[..., None]
    rank = (circuit > own).sum(-1) + ((circuit == own).sum(-1) - 1) / 2
    return 1 - 2 * rank.double().mean(-1) / (circuit.shape[-1] - 1)


def _orders(size: int, count: int, seed: int) -> list[Tensor]:
    draw = generator(seed, "copying", "permutations")
    return [torch.randperm(size, generator=draw) for _ in range(count)]
