"""Where an estimate takes its gradients: in the clean run, or along a straight line between two values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from mechinterp.core import ConfigError, Graph, Site, suggest
from mechinterp.patching.readers import Ends, Path

BY_COMPONENT = "eap-ig-activations"
ESTIMATES = ("eap", "eap-ig", BY_COMPONENT, "clean-corrupted")


@dataclass(frozen=True)
class Interpolation:
    """Which activations move, and to which points.

    Args:
        method: One of `ESTIMATES`.
        points: Shares of the way: from the corrupted embedding to the clean one, or, component by component, from the
            clean value to what replaces it.
    """

    method: str
    points: tuple[float, ...]

    @classmethod
    def of(cls, method: str, steps: int) -> Interpolation:
        """That of a method.

        Raises:
            ConfigError: If the method is unknown, or `steps` is below 1.
        """
        if method not in ESTIMATES:
            raise ConfigError(f"no method '{method}'.{suggest(method, ESTIMATES)}")
        if steps < 1:
            raise ConfigError(f"steps={steps}: needs at least 1")
        ends = {"eap": (1.0,), "clean-corrupted": (0.0, 1.0)}
        return cls(method, ends.get(method) or tuple(step / steps for step in range(steps)))

    def paths(self, ends: Ends, graph: Graph) -> Iterator[Path]:
        """The runs to take gradients in; each source belongs to one of these paths."""
        many = len(self.points)
        if self.method != BY_COMPONENT:
            streams = torch.cat([ends.start + share * (ends.stop - ends.start) for share in self.points])
            yield Path(Site("input").hook, many, lambda value: streams, slice(0, len(graph.sources)))
            return
        for hook, sources in components(graph):
            step = ends.steps[sources].sum(0)
            moved = torch.cat([share * step for share in self.points])
            yield Path(hook, many, partial(torch.add, moved), sources)


def components(graph: Graph) -> Iterator[tuple[str, slice]]:
    """The inputs, each layer's heads and each MLP: the hook point where it writes, and its rows among the sources."""
    first = len(graph.roots)
    yield Site("input").hook, slice(0, first)
    for layer in range(graph.n_layers):
        kinds = {"attn": graph.n_heads, "mlp": 1} if graph.mlp else {"attn": graph.n_heads}
        for kind, many in kinds.items():
            yield Site(kind, layer).hook, slice(first, first + many)
            first += many
