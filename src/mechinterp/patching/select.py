"""Which nodes are patched, and how their effects are labelled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import Graph, HookedModel, Site, SiteError, UnsupportedError, labelled, suggest
from mechinterp.interventions import as_hooked, hook_name
from mechinterp.models import Transformer
from mechinterp.patching.places import Places

HEAD_KINDS = ("q", "k", "v", "z", "result", "pattern")
LAYER_KINDS = ("resid_pre", "resid_mid", "resid_post", "attn", "mlp", "mlp_post")
WHOLE_KINDS = ("input", "embed", "pos")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind.

    Args:
        kind: One of the kinds above.
        layers: Which layers; one entry for a site of the whole model.
        heads: Which places on the head axis, for kinds that have one.
        shared: Heads at each of these places; more than 1 where they share keys and values.
    """

    kind: str
    layers: range
    heads: range
    shared: int = 1

    @property
    def whole(self) -> bool:
        """Whether the site belongs to no layer."""
        return self.kind in WHOLE_KINDS

    @property
    def unit(self) -> str | None:
        """The dimension of a layer's nodes: `head`, `feature` (neurons) or None."""
        return "head" if self.kind in HEAD_KINDS else "feature" if self.kind == "mlp_post" else None

    @property
    def axis(self) -> int:
        """The axis of heads or neurons in the hooked activation."""
        return 1 if self.kind == "pattern" else 2

    def hooks(self, model: HookedModel) -> list[str]:
        """Hook names, one per layer, checked."""
        return [hook_name(model, Site(self.kind, None if self.whole else layer)) for layer in self.layers]

    def seq_second(self, value: Tensor) -> Tensor:
        """Swap a pattern's heads and queries, so that the axis after the batch is the sequence (or back again)."""
        return value.transpose(1, 2) if self.kind == "pattern" else value

    def units(self, value: Tensor) -> list[int | None]:
        """Heads or neurons of a hooked activation; `[None]` where it is one node.

        Raises:
            UnsupportedError: If the activation has fewer heads than the model has queries.
        """
        if self.unit is None:
            return [None]
        size = value.shape[self.axis]
        if self.unit == "feature":
            return list(range(size))
        if self.heads.stop > size:
            raise UnsupportedError(
                f"'{self.kind}' has {size} heads where queries have {self.heads.stop} (grouped-query attention): "
                "patch 'z' or 'q' instead"
            )
        return list(self.heads)


def select_nodes(model: HookedModel | nn.Module, site: str | Site) -> Nodes:
    """Read a kind (`z`: all of them) or an address (`L1.H3.z`: this one).

    Raises:
        SiteError: If the model has no such site, naming the nearest.
        UnsupportedError: If the model has no hook points.
    """
    cfg = as_hooked(model).cfg
    every = range(cfg.n_layers), range(cfg.n_heads)
    kinds = (*HEAD_KINDS, *LAYER_KINDS, *WHOLE_KINDS)
    bare = isinstance(site, str) and "." not in site and not site.startswith("L")
    address = Site(site, None if site in WHOLE_KINDS or site == "logits" else 0) if bare else Site.parse(site)  # type: ignore[arg-type]
    if address.kind not in kinds:
        raise SiteError(f"no node effects for '{address.kind}'.{suggest(address.kind, kinds)}")
    mlp = not getattr(cfg, "attn_only", False)
    graph = model.config.graph() if isinstance(model, Transformer) else Graph(cfg.n_layers, cfg.n_heads, mlp)
    graph.check_site(address)
    if isinstance(model, Transformer):
        if address.kind == "resid_mid" and not mlp:
            raise SiteError("no site 'resid_mid': the model is attention only; its stream has resid_pre and resid_post")
        if address.kind == "resid_mid" and graph.parallel:
            raise SiteError("no site 'resid_mid': attention and MLP run in parallel, and nothing reads between them")
        if address.kind == "pos" and not model.config.position_source:
            raise SiteError(f"no site 'pos': positions='{model.config.positions}' are not added to the residual stream")
    if address.kind in WHOLE_KINDS:
        return Nodes(address.kind, range(1), every[1])
    layer = address.layer or 0
    layers = every[0] if bare else range(layer, layer + 1)
    if not address.has_heads:
        return Nodes(address.kind, layers, every[1])
    forks = graph.forks(address.kind, layer)
    heads = range(len(forks)) if address.head is None else range(address.index, address.index + 1)
    return Nodes(address.kind, layers, heads, len(forks[0].heads))


def node_result(effect: Float[Tensor, "layer unit place batch"], nodes: Nodes, where: Places) -> xr.DataArray:
    """Name the dimensions, leave out those that the kind does not have, and mark absent roles as NaN.

    A key or a value that heads share is labelled by the first of them.
    """
    effect = torch.where(where.absent, torch.nan, effect)
    unit, place = nodes.unit or "unit", where.dims[0] if where.dims else "place"
    labels = [place * nodes.shared for place in nodes.heads] if unit == "head" else list(range(effect.shape[1]))
    coords = {"layer": list(nodes.layers), unit: labels, place: where.labels}
    result = labelled(effect, ["layer", unit, place, "example"], coords)
    lost = {"layer": nodes.whole, unit: nodes.unit is None, place: not where.dims}
    return result.isel({name: 0 for name, gone in lost.items() if gone}, drop=True)
