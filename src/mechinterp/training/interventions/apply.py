"""How interventions act on a forward pass: from their settings to edits of the model's hook points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mechinterp.core import ConfigError, Site, SiteError, UnsupportedError
from mechinterp.interventions import record
from mechinterp.interventions.standing import Pass, PassEdit, StandingEdits
from mechinterp.models import Transformer
from mechinterp.models.attention import WEIGHTINGS
from mechinterp.training.interventions.common import Intervention, parse_heads
from mechinterp.training.interventions.on_activations import (
    ClampSite,
    DisallowKeys,
    GiveCopy,
    GiveInput,
    GivePattern,
    KeepFork,
    ScaleSite,
)
from mechinterp.training.interventions.patterns import keys_named, pattern_named

_FLOOR = 1e-9
"""Probability that a perfect copy gives to a token which gets no attention."""
_Hooked = tuple[str, PassEdit]


def standing_edits(
    specs: Sequence[Intervention], model: Transformer, kept: Mapping[int, Transformer] | None = None
) -> StandingEdits:
    """What some interventions change in each forward pass, in their order.

    Args:
        specs: All of them name their heads; those that act on weights or settings change no forward pass.
        model: The model.
        kept: Number of a `KeepFork` -> the model of its step.

    Raises:
        ConfigError: If an address does not exist in the model.
        UnsupportedError: If the model has not what an intervention needs.
    """
    hooked, output, before = [], [], []
    for number, spec in enumerate(specs):
        if isinstance(spec, GivePattern) and spec.strength > 0:
            hooked += _give_pattern(spec, model)
        elif isinstance(spec, DisallowKeys):
            hooked += _disallow(spec, model)
        elif isinstance(spec, ScaleSite | ClampSite) and not (isinstance(spec, ScaleSite) and spec.factor == 1):
            for site, edit in _at_sites(spec, model):
                if site.kind == "logits":
                    output.append(edit)
                else:
                    hooked.append((site.hook, edit))
        elif isinstance(spec, GiveInput):
            hooked += _give_input(spec, model)
        elif isinstance(spec, GiveCopy):
            reads, writes = _give_copy(number, spec, model)
            hooked += reads
            output += writes
        elif isinstance(spec, KeepFork):
            keep = _Kept(number, spec, model, None if kept is None else kept.get(number))
            before.append(keep.run)
            hooked += keep.hooks()
    return StandingEdits(tuple(hooked), tuple(output), tuple(before))


def heads_by_layer(heads: Sequence[str], model: Transformer) -> dict[int, list[int]]:
    """Layer -> heads that are named.

    Raises:
        ConfigError: If a head does not exist in the model.
    """
    config, named = model.config, {}
    for text in heads:
        layer, head = parse_heads(text)
        if layer >= config.n_layers or (head or 0) >= config.n_heads:
            limits = f"layers 0-{config.n_layers - 1}, heads 0-{config.n_heads - 1}"
            raise ConfigError(f"no heads '{text}': the model has {limits}")
        named.setdefault(layer, set()).update(range(config.n_heads) if head is None else [head])
    return {layer: sorted(named[layer]) for layer in sorted(named)}


def _named(spec: Intervention, model: Transformer) -> dict[int, list[int]]:
    heads = getattr(spec, "heads", None)
    if not isinstance(heads, tuple):
        raise ConfigError("the heads of a role are not known yet")
    return heads_by_layer(heads, model)


def _mask(model: Transformer, heads: Sequence[int], kind: str) -> Bool[Tensor, ...]:
    """Which entries of an activation belong to the heads, to be broadcast.

    Raises:
        ConfigError: If some heads share what others keep.
    """
    config = model.config
    shared = config.shared if kind in ("k", "v", "k_input", "v_input") else 1
    mask = torch.zeros(config.n_heads // shared, dtype=torch.bool, device=model.device)
    mask[[head // shared for head in heads]] = True
    if int(mask.sum()) * shared != len(set(heads)):
        raise ConfigError(f"{shared} heads share one '{kind}' in this model: name all of them")
    return mask[:, None, None] if kind in ("pattern", "scores") else mask[:, None]


def _give_pattern(spec: GivePattern, model: Transformer) -> list[_Hooked]:
    if model.config.pad_token is not None:
        raise UnsupportedError("a pattern cannot be given to a model with padding: it would attend to it")
    return [
        (Site("pattern", layer).hook, _Pattern(_mask(model, heads, "pattern"), spec))
        for layer, heads in _named(spec, model).items()
    ]


@dataclass(frozen=True, eq=False)
class _Pattern:
    mask: Tensor
    spec: GivePattern

    def __call__(self, now: Pass, pattern: Tensor) -> Tensor:
        given, rows = pattern_named(self.spec.to, now.inputs, now.model.config.causal, self.spec.offsets)
        given, rows = given.to(pattern.dtype)[:, None], rows[:, None]
        strength = self.spec.strength
        if strength < 1:
            given = (1 - strength) * pattern + strength * given
        return torch.where(self.mask & rows, given, pattern)


def _disallow(spec: DisallowKeys, model: Transformer) -> list[_Hooked]:
    return [
        (Site("scores", layer).hook, _Disallow(_mask(model, heads, "scores"), spec.keys))
        for layer, heads in _named(spec, model).items()
    ]


@dataclass(frozen=True, eq=False)
class _Disallow:
    mask: Tensor
    keys: str

    def __call__(self, now: Pass, scores: Tensor) -> Tensor:
        unseen, _ = WEIGHTINGS[now.model.config.attention]
        keys = keys_named(self.keys, now.inputs)[:, None]
        if unseen != 0.0:
            # A row without any key has no softmax.
            keys = keys & ((scores != unseen) & ~keys).any(-1, keepdim=True)
        return scores.masked_fill(self.mask & keys, unseen)


def _at_sites(spec: ScaleSite | ClampSite, model: Transformer) -> list[tuple[Site, PassEdit]]:
    if spec.heads is None:
        sites = [Site.parse(spec.site)]
    else:
        named = _named(spec, model).items()
        groups = {layer: _mask(model, heads, spec.site) for layer, heads in named}
        return [(Site(spec.site, layer), _edit(spec, mask)) for layer, mask in groups.items()]
    edits = []
    for site in sites:
        try:
            model.config.graph().check_site(site)
            if site.kind != "logits":
                model.check_hook(site.hook)
        except SiteError as error:
            raise ConfigError(str(error)) from None
        heads = list(site.heads)
        edits.append((site, _edit(spec, _mask(model, heads, site.kind) if heads else None)))
    return edits


def _edit(spec: ScaleSite | ClampSite, mask: Tensor | None) -> PassEdit:
    return _Scale(mask, spec.factor) if isinstance(spec, ScaleSite) else _Clamp(mask, spec.to)


@dataclass(frozen=True, eq=False)
class _Scale:
    mask: Tensor | None
    factor: float

    def __call__(self, now: Pass, value: Tensor) -> Tensor:
        # Scores of keys that are not seen are infinite, and stay so.
        scaled = torch.where(value.isinf(), value, value * self.factor)
        return scaled if self.mask is None else torch.where(self.mask, scaled, value)


@dataclass(frozen=True, eq=False)
class _Clamp:
    mask: Tensor | None
    to: float | str

    def __call__(self, now: Pass, value: Tensor) -> Tensor:
        if isinstance(self.to, str):
            # The batch axis is the first: the model is trained on [batch, seq].
            clamped = value.mean(0, keepdim=True).expand_as(value)
        else:
            clamped = torch.full_like(value, self.to)
        return clamped if self.mask is None else torch.where(self.mask, clamped, value)


_EMBED = Site("embed").hook


def _give_input(spec: GiveInput, model: Transformer) -> list[_Hooked]:
    kind = f"{spec.fork}_input"
    gives = [
        (Site(kind, layer).hook, _Input(_mask(model, heads, kind), spec.to))
        for layer, heads in _named(spec, model).items()
    ]
    return [(_EMBED, _Read(_EMBED)), *gives]


@dataclass(frozen=True, eq=False)
class _Read:
    """Leaves an activation for later edits."""

    name: str

    def __call__(self, now: Pass, value: Tensor) -> Tensor:
        now.values[self.name] = value
        return value


@dataclass(frozen=True, eq=False)
class _Input:
    mask: Tensor
    to: str

    def __call__(self, now: Pass, value: Tensor) -> Tensor:
        embedded = now.values[_EMBED]
        if self.to == "previous-token":
            embedded = torch.cat([embedded[:, :1], embedded[:, :-1]], 1)
        return torch.where(self.mask, embedded[:, :, None], value)


def _give_copy(number: int, spec: GiveCopy, model: Transformer) -> tuple[list[_Hooked], list[PassEdit]]:
    config = model.config
    if config.inputs != "tokens" or config.features_in != config.features_out:
        raise UnsupportedError("a perfect copy needs a model that reads and writes the same tokens")
    reads: list[_Hooked] = []
    named = _named(spec, model)
    for layer in named:
        hook = Site("pattern", layer).hook
        reads.append((hook, _Read(f"{number} {hook}")))
    if spec.to == "logits":
        return reads, [_CopyToLogits(number, named)]
    for layer, heads in named.items():
        reads.append((Site("result", layer).hook, _CopyToStream(number, layer, _mask(model, heads, "result"))))
    return reads, []


@dataclass(frozen=True, eq=False)
class _CopyToLogits:
    number: int
    heads: Mapping[int, Sequence[int]]

    def __call__(self, now: Pass, output: Tensor) -> Tensor:
        patterns = [_pattern(now, self.number, layer)[:, list(heads)] for layer, heads in self.heads.items()]
        attention = torch.cat(patterns, 1).mean(1)
        index = now.inputs[:, None, :].expand_as(attention)
        return torch.log(torch.zeros_like(output).scatter_add(-1, index, attention) + _FLOOR)


@dataclass(frozen=True, eq=False)
class _CopyToStream:
    number: int
    layer: int
    mask: Tensor

    def __call__(self, now: Pass, result: Tensor) -> Tensor:
        written = now.model.unembed.W_U.T[now.inputs]
        copied = torch.einsum("bhqk,bkm->bqhm", _pattern(now, self.number, self.layer), written)
        return torch.where(self.mask, copied, result)


def _pattern(now: Pass, number: int, layer: int) -> Tensor:
    return now.values[f"{number} {Site('pattern', layer).hook}"]


class _Kept:
    """A fork of the model of another step."""

    def __init__(self, number: int, spec: KeepFork, model: Transformer, source: Transformer | None) -> None:
        self._names = {Site(spec.fork, layer).hook: heads for layer, heads in _named(spec, model).items()}
        self._masks = {name: _mask(model, heads, spec.fork) for name, heads in self._names.items()}
        self._number, self._source = number, source

    def run(self, now: Pass) -> None:
        """Compute its values on the inputs of a pass."""
        if self._source is None:
            raise ConfigError("the weights that queries, keys or values are kept from are not known yet")
        _, values = record(self._source, now.inputs, list(self._masks))
        now.values |= {f"{self._number} kept {name}": value for name, value in values.items()}

    def hooks(self) -> list[_Hooked]:
        """Edits that put them in place."""
        return [(name, _Put(f"{self._number} kept {name}", mask)) for name, mask in self._masks.items()]


@dataclass(frozen=True, eq=False)
class _Put:
    name: str
    mask: Tensor

    def __call__(self, now: Pass, value: Tensor) -> Tensor:
        return torch.where(self.mask, now.values[self.name], value)
