"""Many circuits of one model at once, on some examples: the forward pass, with an input of its own for each reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from mechinterp.core import Graph, Site
from mechinterp.models import Positions, Transformer


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs circuits of one model on some examples, many at once.

    Only differences from the reference travel: a reader starts from the sum of all references and biases, and adds the
    differences of the sources that it sees. The first layer's heads read roots alone, so whatever the circuits, a head
    there puts out one of few things (8 with merged inputs); each is computed once.

    Args:
        model: The model.
        graph: Its edges.
        memory: Bytes for the circuits that run together.
        where: The positions of the sequence.
        scored: The scored ones.
        roots: Clean values of the sources that nothing feeds.
        reference: What absent edges carry.
    """

    model: Transformer
    graph: Graph
    memory: float
    where: Positions
    scored: Positions
    roots: Float[Tensor, "root batch seq d_model"]
    reference: Float[Tensor, "source batch seq d_model"]

    def __call__(self, masks: Bool[Tensor, "circuit source reader"]) -> Float[Tensor, "circuit batch scored out"]:
        """Outputs at the scored positions."""
        heads, many = range(self.graph.n_heads), len(self.roots)
        columns = [[self.graph.readers.index(fork) for fork in self.graph.forks_of(0, head)] for head in heads]
        inputs = rearrange(masks[:, :many, columns], "circuit root head kind -> (circuit head) (root kind)")
        variants, which = inputs.unique(dim=0, return_inverse=True)
        as_masks = torch.zeros(len(variants), *masks.shape[1:], dtype=torch.bool, device=masks.device)
        as_masks[:, :many, columns] = repeat(
            variants, "variant (root kind) -> variant root head kind", root=many, head=len(heads)
        )
        at = self.queries(0)
        first = torch.cat([self.start(part).attention(0, at) for part in as_masks.split(4)])
        which = rearrange(which, "(circuit head) -> circuit head", head=len(heads))
        size = len(self.graph.sources) * 3 * self.roots[0].numel() * self.roots.element_size()
        chunk = max(1, int(self.memory / size))
        outputs = []
        for part, pick in zip(masks.split(chunk), which.split(chunk), strict=True):
            written = first[pick, torch.arange(len(heads), device=pick.device)]
            outputs.append(self.start(part).finish(heads=written))
        return torch.cat(outputs)

    def start(self, weights: Tensor) -> ResidualStreams:
        """The streams of some circuits before the first layer.

        Args:
            weights: Which share of each source each reader sees, `[circuit, source, reader]`; truth values are 1 and 0.
        """
        many = len(self.roots)
        delta = (self.roots - self.reference[:many]).expand(len(weights), *self.roots.shape)
        return ResidualStreams(self, weights.to(self.roots.dtype), delta, self.reference[:many].sum(0), self.reference)

    def queries(self, layer: int) -> Positions:
        """Where a layer's heads must be known: in the last one only what the scored positions attend to is read."""
        return self.scored if layer == self.graph.n_layers - 1 else self.where


@dataclass(eq=False)
class ResidualStreams:
    """The residual streams of some circuits, as far as they have been computed.

    Args:
        run: Their runner.
        weights: Which share of each source each reader sees.
        delta: By how much each source that has written differs from its reference.
        constant: What all readers see: the references so far, and all biases.
        reference: As the runner has it, at the positions where the streams are known.
    """

    run: Runner
    weights: Float[Tensor, "circuit source reader"]
    delta: Float[Tensor, "circuit written batch seq d_model"]
    constant: Float[Tensor, "batch seq d_model"]
    reference: Float[Tensor, "source batch seq d_model"]

    def finish(
        self, layer: int = 0, heads: Float[Tensor, "circuit head batch row d_model"] | None = None
    ) -> Float[Tensor, "circuit batch scored out"]:
        """Outputs of streams that are known before a layer, and perhaps what its heads write."""
        for number in range(layer, self.run.graph.n_layers):
            at = self.run.queries(number)
            self.write(number, self.attention(number, at) if heads is None else heads, at)
            heads = None
        return self.read()

    def write(
        self, layer: int, heads: Float[Tensor, "circuit head batch row d_model"], at: Positions
    ) -> Float[Tensor, "circuit batch row d_model"] | None:
        """A layer's heads write to the streams, then its MLP; from then on they are known at some positions.

        Returns:
            What the MLP reads; None without MLPs.
        """
        block = self.run.model.blocks[layer]
        self.delta, self.constant, self.reference = map(at.take, (self.delta, self.constant, self.reference))
        before = self.constant
        self.add(heads, block.attn.bias)
        if not block.has_mlp:
            return None
        (read,) = self.mixed([Site("mlp", layer)], block.mlp_reads(before, self.constant)).unbind(1)
        self.add(self.mlp(layer, read)[:, None], block.mlp.bias)
        return read

    def mlp(self, layer: int, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What a layer's MLP writes, without its bias, where it reads this."""
        block = self.run.model.blocks[layer]
        return block.mlp.write(block.mlp.neurons(block.ln2(read)))

    def read(self) -> Float[Tensor, "circuit batch row out"]:
        """Outputs at the positions that are known."""
        return self.run.model.read(self.mixed([Site("logits")], self.constant)[:, 0])

    def add(self, written: Float[Tensor, "circuit source batch seq d_model"], bias: Tensor | None) -> None:
        """The next sources write to the streams."""
        first = self.delta.shape[1]
        reference = self.reference[first : first + written.shape[1]]
        self.delta = torch.cat([self.delta, written - reference], 1)
        self.constant = self.constant + reference.sum(0) + (0 if bias is None else bias)

    def mixed(
        self, readers: Sequence[Site], constant: Float[Tensor, "batch row d_model"], at: Positions | None = None
    ) -> Float[Tensor, "circuit reader batch row d_model"]:
        """Inputs of some readers, at all positions of the streams or at some of them."""
        columns = [self.run.graph.readers.index(reader) for reader in readers]
        part = self.weights[:, : self.delta.shape[1], columns].transpose(1, 2)
        moved = self.delta if at is None else at.take(self.delta)
        return (part @ moved.flatten(2)).unflatten(2, moved.shape[2:]) + constant

    def attention(self, layer: int, at: Positions) -> Float[Tensor, "circuit head batch row d_model"]:
        """What a layer's heads write at some positions."""
        block, where = self.run.model.blocks[layer], self.run.where

        def project(kind: str, rows: Positions) -> Tensor:
            x = block.ln1(self.mixed(self.run.graph.forks(kind, layer), rows.take(self.constant), rows))
            return block.attn.project_heads(kind, x.movedim(1, -2), rows)

        z = block.attn.attend(project("q", at), project("k", where), project("v", where), at, where)
        return block.attn.write_heads(z).movedim(-2, 1)
