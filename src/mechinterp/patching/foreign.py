"""Sources and readers of a model that is not ours, by TransformerLens's hook points alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.core import Graph, HookedModel, Options, Pair, Site, UnsupportedError
from mechinterp.interventions import ablated, gradients, record, take
from mechinterp.patching.readers import Ends, LayerGradients, Path

CONVERT = "from_transformer_lens gives a Transformer that knows such edges"
FLAGS = ("use_attn_in", "use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")


def foreign_graph(model: HookedModel | nn.Module, inputs: str) -> Graph:
    """The edges of a `TransformerBridge`.

    Raises:
        UnsupportedError: If the model is no sum of heads and MLPs that each read the stream for themselves.
    """
    cfg = getattr(model, "cfg", None)
    if cfg is None or not hasattr(model, "set_use_split_qkv_input"):
        raise UnsupportedError(
            f"edge estimates need a Transformer or a TransformerBridge, not a {type(model).__name__}"
        )
    shared = getattr(cfg, "n_key_value_heads", None)
    if shared not in (None, cfg.n_heads):
        raise UnsupportedError(
            f"{cfg.n_heads} query heads share {shared} key heads: an edge into k has no one head; {CONVERT}"
        )
    if getattr(cfg, "parallel_attn_mlp", False):
        raise UnsupportedError(
            f"attention and MLP run in parallel here: a head is no source of its own layer's MLP; {CONVERT}"
        )
    added = (getattr(cfg, "positional_embedding_type", None) or "standard") == "standard"
    return Graph(cfg.n_layers, cfg.n_heads, not getattr(cfg, "attn_only", False), added, inputs)


@contextmanager
def forked(model: HookedModel) -> Iterator[None]:
    """Per-head results and inputs switched on in a bridge; on leaving, also by an error, all is as it was.

    Raises:
        UnsupportedError: If this bridge cannot.
    """
    before = {flag: bool(getattr(model.cfg, flag, False)) for flag in FLAGS}
    try:
        # The flags exclude each other, so the first goes off before the third goes on, and back in reverse order.
        for flag in FLAGS:
            _switch(model, flag, flag != "use_attn_in")
        yield
    finally:
        for flag in reversed(FLAGS):
            if bool(getattr(model.cfg, flag, False)) != before[flag]:
                _switch(model, flag, before[flag])


def _switch(model: HookedModel, flag: str, on: bool) -> None:
    if bool(getattr(model.cfg, flag, False)) == on:
        return
    try:
        getattr(model, f"set_{flag}")(on)
    except NotImplementedError as error:
        raise UnsupportedError(f"this bridge cannot {flag.replace('_', ' ')}: load its weights into ours") from error


@dataclass(frozen=True, eq=False)
class ForeignWires:
    """Sources and readers of a bridge, whose readers each have an input of their own (`forked`)."""

    model: HookedModel
    graph: Graph

    def row_size(self, points: int) -> int:
        """Sources of both runs, and at each point every reader's input, normalised, with gradients."""
        width, sources = self.model.cfg.d_model, 3 * len(self.graph.sources)
        return width * (sources + points * 6 * len(self.graph.readers))

    @property
    def fixed(self) -> int:
        """Nothing: a bridge multiplies with the weights as they are."""
        return 0

    def mean(self, parts: Sequence[Pair], options: Options) -> Tensor | None:
        """Mean over the examples of all parts of what sources write, if the ablation is a mean."""
        if len(parts) == 1 or not options.ablation.startswith("mean"):
            return None
        sums = (
            recorded_sources(self.model, part.corrupted.inputs, self.graph)[0].sum(1, keepdim=True) for part in parts
        )
        return sum(sums) / sum(map(len, parts))  # type: ignore[return-value]

    @torch.no_grad()
    def ends(self, part: Pair, mean: Tensor | None, options: Options) -> Ends:
        """Both runs, by hooks."""
        _, scored, _ = part.clean.at_scored()
        (mine, clean, stop), (theirs, corrupted, start) = (
            recorded_sources(self.model, batch.inputs, self.graph) for batch in (part.clean, part.corrupted)
        )
        other = theirs if mean is None else mean.expand_as(theirs)
        steps = ablated(other, options.ablation, batch_dim=1) - mine
        return Ends(steps, take(clean, scored), take(corrupted, scored), start, stop)

    def gradients(self, part: Pair, path: Path, score: Callable[[Tensor], Tensor]) -> Iterator[LayerGradients]:
        """At every reader's own input."""
        many = path.points
        _, scored, _ = part.clean.at_scored()
        scored = scored.repeat(many, 1)
        reached = [reader for reader in self.graph.readers if path.reaches(self.graph, reader)]
        hooks = {reader: self.graph.input_hook(reader) for reader in reached}
        _, grads = gradients(
            self.model,
            repeat(part.clean.inputs, "batch ... -> (point batch) ...", point=many),
            list(dict.fromkeys(hooks.values())),
            lambda output: score(take(output, scored).unflatten(0, (many, -1))),
            {path.hook: path.change},
        )
        for name, grad in grads.items():
            total = grad.unflatten(0, (many, -1)).sum(0)
            readers = [reader for reader, hook in hooks.items() if hook == name]
            yield readers, total[None] if total.ndim == 3 else total.movedim(2, 0)


def recorded_sources(
    model: HookedModel, inputs: Tensor, graph: Graph
) -> tuple[Float[Tensor, "source batch seq d_model"], Tensor, Float[Tensor, "batch seq d_model"]]:
    """What each source writes (MLPs with their biases), the output, and the stream before the first layer."""
    start = Site("input").hook
    layers = range(graph.n_layers)
    heads = [Site("result", layer).hook for layer in layers]
    mlps = [Site("mlp", layer).hook for layer in layers] if graph.mlp else []
    roots = [site.hook for site in graph.roots]
    output, values = record(model, inputs, list(dict.fromkeys([start, *roots, *heads, *mlps])))
    parts = [values[name].expand_as(values[start]) for name in roots]
    for layer in layers:
        parts += values[heads[layer]].unbind(2)
        parts += [values[mlps[layer]]] if graph.mlp else []
    return torch.stack(parts), output, values[start]
