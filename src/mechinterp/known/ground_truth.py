"""Models whose circuit is known, and what each exam can see of it.

A model is written plainly first, each variable on axes of its own. `conceal` then adds heads that do nothing and turns
the residual stream by a random rotation, so that no method can read the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mechinterp.core import Circuit, ConfigError, Edge, Pair, Site, generator, normal, suggest
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

WAYS = (("resample", "noise"), ("resample", "denoise"), ("mean", "noise"), ("mean-pos", "noise"), ("zero", "noise"))
"""Every ablation and direction in which edges can be patched."""
JUNK = 4
"""Dimensions that inert heads write to: no true component and no output reads them."""
_ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A model, its true circuit, and pairs that exercise it.

    Args:
        model: The model.
        circuit: All edges that the task needs, and no other.
        pair: `pair(batch, seed, corruption) -> Pair`.
        exams: (ablation, corruption, direction) -> the edges whose own effect is not identically zero there, for every
            ablation and direction of `WAYS` and every corruption.
        metric: The metric that fits its outputs.
        groups: Edges that stand in for each other, such as those of two copies of one head: ablating one alone may
            show nothing, ablating a whole group shows. Together they are the circuit; empty if nothing has a stand-in.
    """

    model: Transformer
    circuit: Circuit
    pair: Callable[..., Pair]
    exams: Mapping[tuple[str, str, str], Circuit]
    metric: str = "logit_diff"
    groups: tuple[Circuit, ...] = ()

    @property
    def corruptions(self) -> tuple[str, ...]:
        """What `pair` can change; the first is its default."""
        return tuple(dict.fromkeys(corruption for _, corruption, _ in self.exams))

    def seen(self, ablation: str = "resample", corruption: str | None = None, direction: str = "noise") -> Circuit:
        """The edges that an exam can identify: those with an effect of their own. Others are left out on both sides.

        Args:
            ablation: `resample`, `mean`, `mean-pos` or `zero`.
            corruption: One of `corruptions`, default the first.
            direction: `noise` or, with `resample`, `denoise`. They differ where edges work as an AND or an OR.

        Raises:
            ConfigError: If there is no such exam.
        """
        exam = (ablation, corruption or self.corruptions[0], direction)
        for place, name in enumerate(("ablation", "corruption", "direction")):
            known = {key[place] for key in self.exams}
            if exam[place] not in known:
                raise ConfigError(f"no {name} '{exam[place]}'.{suggest(exam[place], known)}")
        if exam not in self.exams:
            raise ConfigError(f"direction='{direction}' takes ablation='resample', not '{ablation}'")
        return self.exams[exam]


@torch.no_grad()
def conceal(
    plain: Transformer, inert_heads: int = 0, rotate: bool = True, seed: int = 0
) -> tuple[Transformer, Callable[[str | Edge], Edge]]:
    """The same function with inert heads among the true ones, in a rotated residual stream.

    Inert heads read everything and write to `JUNK` dimensions of their own, which no true component and no output
    reads: every edge from or into one is inert by construction.

    Args:
        plain: A model without normalisation and readout.
        inert_heads: Heads added to each layer, at random places.
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        seed: Of the rotation, the inert weights and the places of the true heads.

    Returns:
        The model, and a function that maps an edge of the plain model to the same edge of this one.

    Raises:
        ConfigError: If the model has a norm or a readout, or `inert_heads` is negative.
    """
    _check_plain(plain)
    if inert_heads < 0:
        raise ConfigError(f"inert_heads={inert_heads}: 0 or more")
    old = plain.config
    sizes = {"n_heads": old.n_heads + inert_heads, "d_model": old.d_model + JUNK}
    wide = ModelConfig(**{**old.model_dump(), **sizes})
    model = Transformer(wide, seed).to(plain.dtype)
    places = [_places(old.n_heads, wide.n_heads, layer, seed) for layer in range(old.n_layers)]
    width, weights = old.d_model, dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        leaf, value = name.rsplit(".", 1)[-1], weights[name]
        if leaf in _ATTENTION:
            slots = places[int(name.split(".")[1])]
            if leaf == "W_O":
                weight[:, :, :width] = 0
            weight[slots] = 0
            weight[(slots, *(slice(size) for size in value.shape[1:]))] = value
        else:
            weight.zero_()[tuple(slice(size) for size in value.shape)] = value
    if rotate:
        size = wide.d_model
        draw = torch.randn(size, size, dtype=torch.float64, generator=generator(seed, "handmade", "rotation"))
        rotate_stream(model, torch.linalg.qr(draw).Q.to(plain.dtype))

    def move(site: Site) -> Site:
        if site.layer is None or site.head is None:
            return site
        return Site(site.kind, site.layer, places[site.layer][site.head])

    def moved(edge: str | Edge) -> Edge:
        original = Edge.parse(edge)
        return Edge(move(original.source), move(original.reader))

    return model, moved


def _places(true: int, heads: int, layer: int, seed: int) -> list[int]:
    """Where a layer's true heads go, all different."""
    draw, free, places = generator(seed, "handmade", "place", layer), list(range(heads)), []
    for _ in range(true):
        places.append(free.pop(int(torch.randint(len(free), (), generator=draw))))
    return places


@torch.no_grad()
def roughened(known: KnownModel, size: float = 0.01, seed: int = 0) -> KnownModel:
    """The same model with a little noise on every weight, so that no edge has an effect of exactly zero.

    The circuit stays: it does the task, and the noise does not. What an exam can see of it stays as well, beside
    effects of the noise on all other edges.

    Args:
        known: The model.
        size: Standard deviation of the noise, as a share of a weight matrix's root mean square.
        seed: Of the noise.
    """
    model = deepcopy(known.model)
    for name, weight in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("W_"):
            scale = size * weight.square().mean().sqrt()
            weight.add_(normal(generator(seed, "handmade", "roughened", name), *weight.shape).to(weight) * scale)
    return replace(known, model=model)


@torch.no_grad()
def rotate_stream(model: Transformer, rotation: Tensor) -> None:
    """Change the basis of the residual stream, in place; without a norm the outputs stay the same.

    Args:
        model: A model without normalisation.
        rotation: Orthogonal, `[d_model, d_model]`.

    Raises:
        ConfigError: If the model has a norm, which a rotation does not commute with, or a readout.
    """
    _check_plain(model)
    for name, weight in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            weight.copy_(weight @ rotation)
        elif leaf in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            weight.copy_(rotation.T @ weight)


def _check_plain(model: Transformer) -> None:
    if model.config.readout_layers:
        raise ConfigError("a model with readout_layers > 0 is not rotated")
    if model.config.normalization != "none":
        raise ConfigError(f"normalization='{model.config.normalization}' does not commute with a rotation")
